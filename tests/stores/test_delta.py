"""Results into a Delta table: what is written, once whatever dies, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from pydantic import BaseModel
from resultskit import finished
from support import task_context

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed
from airflow_provider_openai_batches.lakes import delta
from airflow_provider_openai_batches.results import ResultRows
from airflow_provider_openai_batches.transfers.openai_batch_results_to_delta import (
    OpenAIBatchResultsToDeltaOperator,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TYPED: dict[str, Any] = {"output_format": "parquet", "typed_output": True}


class Label(BaseModel):
    label: str
    score: float | None
    tags: list[str]
    more: dict[str, int]


def results(directory: Path, count: int = 10, first: int = 0, **options: Any) -> str:
    """A finished job, whose second row failed."""
    value = {"label": "good", "score": 0.5, "tags": ["a"], "more": {"n": 1}}
    rows = [
        {"id": f"a{n}", "text": json.dumps({**value, "score": n}), "day": f"d{n % 2}"}
        for n in range(first, first + count)
    ]
    given = {"keep_columns": ["day"], "schema": Label, **TYPED, **options}
    return finished(directory, rows, faults={f"a{first + 1}": "invalid"}, **given)


def write(given: Any, table: Path | str, **options: Any) -> Any:
    operator = OpenAIBatchResultsToDeltaOperator(
        task_id="load", results=given, table_uri=str(table), **options
    )
    return operator.execute(task_context(operator))


def scores(table: Path | str) -> list[float]:
    return sorted(row["output"]["score"] for row in pl.read_delta(str(table)).to_dicts())


def others(count: int, first: int = 0) -> list[float]:
    """The scores of all rows but the one that failed."""
    return [float(n) for n in range(first, first + count) if n != first + 1]


def test_a_table_is_made(tmp_path: Path) -> None:
    """With the types of the results, and all rows in one commit."""
    uri, table = results(tmp_path / "out"), tmp_path / "table"
    assert write(uri, table) == {"table_uri": str(table), "rows": 9, "loaded_before": False}
    assert [commit["operation"] for commit in DeltaTable(table).history()] == ["WRITE", "CREATE TABLE"]
    found = pl.read_delta(str(table))
    assert found.columns == [
        *("custom_id", "day", "status", "output", "output_text", "usage", "error", "finish_reason")
    ]
    (row,) = found.filter(pl.col("custom_id") == "a3").to_dicts()
    assert row["output"] == {"label": "good", "score": 3.0, "tags": ["a"], "more": '{"n":1}'}
    assert scores(table) == others(10)


def test_append_adds_each_job_once(tmp_path: Path) -> None:
    table = tmp_path / "table"
    one, two = results(tmp_path / "one"), results(tmp_path / "two", first=100)
    assert [write({"output_uri": uri}, table)["loaded_before"] for uri in (one, two, one, two)] == [
        *(False, False, True, True)
    ]
    assert scores(table) == others(10) + others(10, 100)
    assert write(one, table, statuses=["failed"])["rows"] == 1
    assert DeltaTable(table).version() == 3
    assert pl.read_delta(str(table)).height == 19


def test_overwrite_replaces_all_rows(tmp_path: Path) -> None:
    table = tmp_path / "table"
    write(results(tmp_path / "one"), table)
    two = results(tmp_path / "two", first=100)
    for _ in range(2):
        assert write(two, table, mode="overwrite")["rows"] == 9
        assert scores(table) == others(10, 100)
    write([two, results(tmp_path / "three", first=200)], table, mode="overwrite")
    assert scores(table) == others(10, 100) + others(10, 200)
    assert write(two, table)["loaded_before"] is False, "an append after it is a load of its own"


@pytest.mark.parametrize("options", [{"partition_by": "day"}, {"typed_output": False}], ids=str)
def test_results_of_each_form(tmp_path: Path, options: dict[str, Any]) -> None:
    write(results(tmp_path / "out", **options), tmp_path / "table")
    found = pl.read_delta(str(tmp_path / "table")).sort("custom_id").to_dicts()
    assert [row["day"] for row in found] == ["d0", *["d0", "d1"] * 4]
    assert isinstance(found[0]["output"], str if "typed_output" in options else dict)


def test_a_table_in_partitions(tmp_path: Path) -> None:
    """Those of the table, not of the results."""
    table = str(tmp_path / "table")
    write(results(tmp_path / "out"), tmp_path / "first")
    empty = pl.read_delta(str(tmp_path / "first")).clear()
    write_deltalake(table, empty, partition_by=["day"])
    write(results(tmp_path / "two"), table)
    assert scores(table) == others(10)
    assert DeltaTable(table).metadata().partition_columns == ["day"]


# -- deaths ------------------------------------------------------------------------------------------------

TRY = """
import os, signal, sys
from airflow_provider_openai_batches.lakes import delta
from airflow_provider_openai_batches.results import all_results
import deltalake

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where, uri, table, mode = sys.argv[1:]
write, read = deltalake.write_deltalake, delta._Batches._read
def dying_read(self):
    yield next(read(self))
    die()
def dying_write(*given, **more):
    write(*given, **more)
    die()
if where == "in the stream":
    delta._Batches._read = dying_read
if where == "after the commit":
    deltalake.write_deltalake = dying_write
done = delta.write(all_results(uri), table, mode=mode, statuses=frozenset({"succeeded"}))
print(done.before)
"""


def attempt(where: str, uri: str, table: Path, mode: str) -> tuple[int, str]:
    command = [sys.executable, "-c", TRY, where, uri, str(table), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("mode", delta.DELTA_MODES)
@pytest.mark.parametrize("where", ["in the stream", "after the commit"])
def test_a_killed_try(tmp_path: Path, where: str, mode: str) -> None:
    """The table is as it was, or has all rows; the next try leaves it with all, once."""
    table, uri = tmp_path / "table", results(tmp_path / "out")
    write(results(tmp_path / "before", first=100), table)
    assert attempt(where, uri, table, mode)[0] == -signal.SIGKILL
    before = others(10, 100)
    after = others(10) + before if mode == "append" else others(10)
    assert scores(table) == (before if where == "in the stream" else after)
    assert attempt("nowhere", uri, table, mode) == (0, str(mode == "append" and where == "after the commit"))
    assert scores(table) == after


@pytest.mark.parametrize("is_new", [True, False], ids=["a new table", "a table"])
def test_two_tries_at_the_same_time(tmp_path: Path, is_new: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that commits later is refused; its next try finds the rows."""
    table, uri = tmp_path / "table", results(tmp_path / "out")
    if not is_new:
        write(results(tmp_path / "before", first=100), table)
    read, others_before = ResultRows.batches, [] if is_new else others(10, 100)

    def overtaken(self: ResultRows) -> Iterator[Any]:
        assert attempt("nowhere", uri, table, "append") == (0, "False")
        yield from read(self)

    with monkeypatch.context() as patch:
        patch.setattr(ResultRows, "batches", overtaken)
        with pytest.raises(LoadFailed, match=r"were not written to .* all of them or none"):
            write(uri, table)
    assert write(uri, table)["loaded_before"] is True
    assert scores(table) == others(10) + others_before


# -- what is refused ---------------------------------------------------------------------------------------


def test_lines_have_no_types(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"are JSON lines, .* needs output_format='parquet'"):
        write(results(tmp_path / "out", output_format="jsonl"), tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_a_table_of_other_columns(tmp_path: Path) -> None:
    table = tmp_path / "table"
    write(results(tmp_path / "one"), table)
    changes: list[dict[str, Any]] = [{"typed_output": False}, {"keep_columns": []}]
    for options in changes:
        uri = results(tmp_path / f"two{len(options)}{next(iter(options))}", **options)
        for mode in delta.DELTA_MODES:
            with pytest.raises(
                InvalidInputError, match=r"does not take the results: .*columns are custom_id"
            ):
                write(uri, table, mode=mode)
    assert DeltaTable(table).version() == 1


def test_jobs_of_different_columns(tmp_path: Path) -> None:
    jobs = [results(tmp_path / "one"), results(tmp_path / "two", typed_output=False)]
    with pytest.raises(InvalidInputError, match=r"two have other columns than those in .*: output string"):
        write(jobs, tmp_path / "table")


def test_a_part_that_was_changed_is_named(tmp_path: Path) -> None:
    """In this program's words; and nothing is written."""
    out = tmp_path / "out"
    uri = results(out)
    part = out / "part-00001.parquet"
    part.write_bytes(b"x" * part.stat().st_size)
    with pytest.raises(InvalidInputError, match=r"part-00001\.parquet is not a Parquet file"):
        write(uri, tmp_path / "table")
    assert pl.read_delta(str(tmp_path / "table")).height == 0


def test_a_table_is_not_emptied_for_a_job_without_a_success(tmp_path: Path) -> None:
    table = tmp_path / "table"
    write(results(tmp_path / "one"), table)
    rows = [{"id": "a", "text": "x", "day": "d0"}]
    uri = finished(tmp_path / "two", rows, keep_columns=["day"], schema=Label, **TYPED)
    with pytest.raises(InvalidInputError, match=r"Not one of 1 rows is succeeded: .* is left as it was"):
        write(uri, table, mode="overwrite")
    assert write(uri, table)["rows"] == 0
    assert scores(table) == others(10)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((LoadFailed, InvalidInputError), match=r"table has all of them or none|is no place"):
        write(results(tmp_path / "out"), tmp_path / "file" / "table")
