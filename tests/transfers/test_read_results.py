"""``read_results``: the rows of a finished job, for Python code."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from resultskit import change_manifest, finished, landed, part_of, row

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.results import read_results

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"id": f"a{n}", "text": f"Text {n}", "size": n} for n in range(10)]


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_rows(tmp_path: Path, output_format: str) -> None:
    """All rows in order, over all parts, each with its kept columns, status and output."""
    uri = finished(
        tmp_path / "out",
        ROWS,
        faults={"a3": "invalid"},
        keep_columns=["size"],
        output_format=output_format,
    )
    results = read_results(uri)
    rows = list(results)
    assert len(results) == 10
    assert [(found["custom_id"], found["size"]) for found in rows] == [(f"a{n}", n) for n in range(10)]
    assert [found["output"] for found in rows if found["status"] == "succeeded"] == [
        f"Text {n}" for n in range(10) if n != 3
    ]
    assert rows[3]["error"]["code"] == "invalid"
    assert rows[0]["usage"]["total_tokens"] == 5
    assert results.counts["succeeded"] == 9
    assert results.usage.total_tokens == 45
    assert results.cost is not None
    assert not results.cost.is_known
    assert list(results) == rows, "it can be read again"


def test_the_value_of_a_task_leads_to_its_results(tmp_path: Path) -> None:
    """A dry run has none."""
    uri = finished(tmp_path / "out", ROWS)
    assert len(list(read_results({"output_uri": uri, "rows": 10}))) == 10
    assert len(list(read_results(tmp_path / "out"))) == 10
    assert len(list(read_results(f"file://{uri}"))) == 10
    for wrong in ({}, {"output_uri": uri, "dry_run": True}):
        with pytest.raises(InvalidInputError, match="not what an inference task returns"):
            read_results(wrong)


def test_results_in_a_store(tmp_path: Path) -> None:
    import fsspec

    finished(tmp_path / "out", ROWS)
    fsspec.filesystem("memory").put(str(tmp_path / "out"), "/read-results", recursive=True)
    assert [found["custom_id"] for found in read_results("memory://read-results")] == [
        f"a{n}" for n in range(10)
    ]


def test_a_directory_without_a_manifest_is_not_complete(tmp_path: Path) -> None:
    finished(tmp_path / "out", ROWS)
    (tmp_path / "out" / "manifest.json").unlink()
    for place in (tmp_path / "out", tmp_path / "no such directory"):
        with pytest.raises(InvalidInputError, match="not complete: there is no manifest"):
            read_results(place)


def test_parts_that_do_not_fit_the_manifest_are_refused(tmp_path: Path) -> None:
    """One is missing, has another size, or another number of rows."""
    out = tmp_path / "out"
    finished(out, ROWS)
    parts = read_results(out).manifest.parts
    part = out / "part-00001.jsonl"
    whole = part.read_bytes()
    part.unlink()
    with pytest.raises(InvalidInputError, match=r"not complete: part-00001\.jsonl is missing"):
        read_results(out)
    part.write_bytes(whole[:-3])
    with pytest.raises(InvalidInputError, match=r"part-00001\.jsonl has .* bytes, but manifest\.json says"):
        read_results(out)
    part.write_bytes(whole + whole)
    change_manifest(out, parts=[parts[0], part_of(out, part.name, 4), parts[2]])
    with pytest.raises(InvalidInputError, match=r"has 8 rows, but manifest\.json says 4"):
        list(read_results(out))
    change_manifest(out, parts=parts[:2])
    part.write_bytes(whole)
    with pytest.raises(InvalidInputError, match="says 10 rows, but its parts have 8"):
        read_results(out)
    change_manifest(out, parts=[part_of(out, part.name, 4)], rows=4)
    part.write_bytes(whole.replace(b"{", b"[", 1))
    with pytest.raises(InvalidInputError, match=r"part-00001\.jsonl, line 1: not a result"):
        list(read_results(out))


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "out", ROWS)
    (tmp_path / "secret").write_text("{}\n")
    change_manifest(tmp_path / "out", parts=[part_of(tmp_path, "secret", 10)])
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"secret"', '"../secret"'))
    with pytest.raises(InvalidInputError, match="which is no part"):
        read_results(tmp_path / "out")


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_tables(tmp_path: Path, output_format: str) -> None:
    """As an Arrow table and as data frames, where those are installed."""
    uri = finished(tmp_path / "out", ROWS, keep_columns=["size"], output_format=output_format)
    results = read_results(uri)
    table = results.to_arrow()
    assert table.column("custom_id").to_pylist() == [f"a{n}" for n in range(10)]
    assert table.schema.field("size").type == pa.int64()
    frame = results.to_pandas()
    assert list(frame["output"]) == [f"Text {n}" for n in range(10)]


@pytest.mark.databases  # Polars is installed beside them
@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_a_polars_frame(tmp_path: Path, output_format: str) -> None:
    uri = finished(tmp_path / "out", ROWS, keep_columns=["size"], output_format=output_format)
    assert read_results(uri).to_polars()["size"].to_list() == list(range(10))


def test_a_table_of_values_without_a_common_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of chunks of different types gets the type of all values, or becomes text."""
    monkeypatch.setattr("airflow_provider_openai_batches.inference.data.arrow_tables._CHUNK_ROWS", 2)
    rows = [
        row("a", {"n": None}, late=None, mixed=1),
        row("b", {"n": None}, late=None, mixed=2),
        row("c", {"n": 1}, late=1, mixed="x"),
        row("d", None, late=2.5, mixed=[1]),
        {**row("e", {"n": 2}, late=1, mixed=None), "source": "store"},
    ]
    table = read_results(landed(tmp_path / "out", rows)).to_arrow()
    assert table.column("output").to_pylist() == [{"n": None}, {"n": None}, {"n": 1}, None, {"n": 2}]
    assert table.column("late").to_pylist() == [None, None, 1.0, 2.5, 1.0]
    assert table.column("mixed").to_pylist() == ["1", "2", "x", "[1]", None]
    assert table.column("source").to_pylist() == [None] * 4 + ["store"]


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = read_results(finished(tmp_path / "out", ROWS))
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InvalidInputError, match=f"pip install {name}"):
            getattr(results, f"to_{name}")()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInputError, match=r"airflow-provider-openai-batches\[parquet\]"):
        results.to_arrow()


PROGRAM = """
import json, resource, sys
from airflow_provider_openai_batches.results import read_results
results = read_results(sys.argv[1])
first = next(iter(results))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for row in results)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
heavy = [name for name in ("airflow", "pandas", "pyarrow", "polars") if name in sys.modules]
print(json.dumps([count, (after - before) / 1024, heavy]))
"""


def test_rows_are_streamed_and_nothing_large_is_imported(tmp_path: Path) -> None:
    """200,000 rows of 200 bytes take no memory, and no Airflow."""
    rows: list[dict[str, Any]] = [row(f"id-{n}", "x" * 120) for n in range(200_000)]
    uri = landed(tmp_path / "out", rows)
    done = subprocess.run([sys.executable, "-c", PROGRAM, uri], capture_output=True, text=True, check=True)
    count, megabytes, heavy = json.loads(done.stdout)
    assert count == 200_000
    assert megabytes < 10
    assert heavy == []
