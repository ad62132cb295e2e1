"""Parquet parts are one table for what data engineers read them with, whatever became of single rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest
from inferencekit import job, rows
from pydantic import BaseModel
from support import run_task

from airflow_provider_openai_batches.inference.data import merge

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


class Source(BaseModel):
    page: int


FAULTS = {0: "fail:400", 5: "fail:429*1", 12: "fail:400"}
KEPT = {"price": 1.5, "stock": 3, "name": "ä", "is_new": True}


@pytest.fixture
def parts(server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three parts of a job of several rounds, the first one of failures alone."""
    given = [{**row, **KEPT, "price": None if row["key"] == "k3" else 1.5} for row in rows(15, FAULTS)]
    defaults = {**(merge.merge.__kwdefaults__ or {}), "rows_per_part": 5}
    monkeypatch.setattr(merge.merge, "__kwdefaults__", defaults)
    run_task(
        job(
            tmp_path / "out",
            requests=given,
            body={"messages": [{"role": "user", "content": "{text}"}], "metadata": {"devserver": "{marker}"}},
            output_format="parquet",
            keep_columns=["key", *KEPT],
        )
    )
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 3
    return tmp_path / "out"


def expected(found: list[dict[str, Any]]) -> None:
    assert [row["key"] for row in found] == [f"k{n}" for n in range(15)]
    assert [row["status"] for row in found].count("succeeded") == 13
    assert found[3]["price"] is None
    assert {name: found[1][name] for name in KEPT} == KEPT
    assert found[0]["error"]["code"]
    assert found[1]["usage"]["total_tokens"] > 0
    assert found[1]["output"].endswith("row 1")


def test_duckdb(parts: Path) -> None:
    """Without `union_by_name`: all parts have the same columns, of the same types."""
    asked = duckdb.sql(f"select * from read_parquet('{parts}/part-*.parquet') order by cast(key[2:] as int)")  # noqa: S608 - a test's own path
    names = [column[0] for column in asked.description]
    expected([dict(zip(names, row, strict=True)) for row in asked.fetchall()])


def test_polars(parts: Path) -> None:
    expected(pl.scan_parquet(f"{parts}/part-*.parquet").collect().to_dicts())


def test_pyarrow(parts: Path) -> None:
    files = sorted(map(str, parts.glob("part-*.parquet")))
    assert len({str(ds.dataset(file).schema) for file in files}) == 1
    expected(ds.dataset(files).to_table().to_pylist())


ODD = ["DE", "a/b", "é 🚀", "100%", None, "x=y", "[*]"]


@pytest.mark.parametrize(
    "given", [ODD, [3, 1, None], ["2025-01-31", "2025-02-01"]], ids=["text", "numbers", "days"]
)
def test_partitions(server: DevServer, tmp_path: Path, given: list[Any]) -> None:
    """The readers find the column in the names of the directories."""
    kept = [{**row, "part": given[n % len(given)]} for n, row in enumerate(rows(14))]
    run_task(
        job(
            tmp_path / "out",
            requests=kept,
            output_format="parquet",
            keep_columns=["key", "part"],
            partition_by="part",
        )
    )
    files = f"{tmp_path}/out/*/part-*.parquet"
    expected = sorted((row["key"], None if row["part"] is None else str(row["part"])) for row in kept)
    asked = "select key, part from read_parquet"
    by_duckdb = duckdb.sql(f"{asked}('{files}', hive_partitioning=true)").fetchall()
    by_polars = pl.scan_parquet(files, hive_partitioning=True).select("key", "part").collect().rows()
    for found in (by_duckdb, by_polars):
        assert sorted((key, None if part is None else str(part)) for key, part in found) == expected


class Label(BaseModel):
    label: str
    score: float | None
    tags: list[str]
    source: Source


def test_typed_output(server: DevServer, tmp_path: Path) -> None:
    """Fields can be asked for, also where no row of a part has an answer."""
    typed: dict[str, Any] = {"output_format": "parquet", "typed_output": True, "output_schema": Label}
    given = rows(6, dict.fromkeys(range(3), "fail:400"))
    defaults = {**(merge.merge.__kwdefaults__ or {}), "rows_per_part": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge.merge, "__kwdefaults__", defaults)
        run_task(job(tmp_path / "out", requests=given, **typed))
    parts = f"{tmp_path}/out/part-*.parquet"
    asked = "select output.label, output.source.page + 1, len(output.tags) from"
    by_duckdb = duckdb.sql(f"{asked} '{parts}' where output is not null").fetchall()
    output = pl.col("output").struct
    by_polars = (
        pl.scan_parquet(parts)
        .filter(pl.col("output").is_not_null())
        .select(
            output.field("label"),
            output.field("source").struct.field("page") + 1,
            output.field("tags").list.len(),
        )
        .collect()
        .rows()
    )
    assert by_duckdb == by_polars
    assert len(by_duckdb) == 3


def test_embeddings_of_a_fixed_size(server: DevServer, tmp_path: Path) -> None:
    given: dict[str, Any] = {"endpoint": "/v1/embeddings", "model": "text-embedding-3-small"}
    body = {"input": "{text}", "dimensions": 8}
    run_task(job(tmp_path, requests=rows(4), body=body, output_format="parquet", typed_output=True, **given))
    part = tmp_path / "part-00000.parquet"
    assert pl.read_parquet(part)["output"].dtype == pl.Array(pl.Float32, 8)
    assert duckdb.sql(f"select output::float[8] from '{part}'").fetchall()  # noqa: S608 - as above


def test_embeddings(server: DevServer, tmp_path: Path) -> None:
    texts = [{"text": f"text {n}"} for n in range(10)]
    run_task(
        job(
            tmp_path / "out",
            requests=texts,
            body={"input": "{text}"},
            endpoint="/v1/embeddings",
            model="text-embedding-3-small",
            output_format="parquet",
        )
    )
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    length = len(pl.read_parquet(part)["output"][0])
    found = duckdb.sql(f"select list_cosine_similarity(output, output), len(output) from '{part}'").fetchall()  # noqa: S608 - as above
    assert [(round(same, 4), size) for same, size in found] == [(1.0, length)] * 10
