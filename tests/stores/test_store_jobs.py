"""Whole jobs whose rows and results are in a store, with Airflow's own connections, whatever dies."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from inferencekit import Crash, MortalHook, MortalOperator, again, job, rows
from support import run_task

from airflow_provider_openai_batches.inference import workspace
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

FAULTS = {3: "fail:503*1", 20: "fail:429*2", 27: "fail:400"}
COUNT = 40


def written(uri: str) -> dict[str, bytes]:
    """What is in a directory, also in those below it."""
    path = as_path(uri)
    path.fs.invalidate_cache()
    found = path.fs.find(path.path)
    return {name.removeprefix(f"{path.path.rstrip('/')}/"): path.fs.cat_file(name) for name in found}


def outputs(uri: str) -> list[dict[str, Any]]:
    found = written(uri)
    assert sorted(found) == ["manifest.json", "part-00000.jsonl"]
    return [json.loads(line) for line in found["part-00000.jsonl"].splitlines()]


def put(uri: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = as_path(uri) / name
        path.fs.pipe_file(path.path, content)


def as_lines(given: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in given)


def mortal(base: str, **kwargs: Any) -> Any:
    """A job of several batches, with faults."""
    put(f"{base}/in", {"a.jsonl": as_lines(rows(COUNT, FAULTS))})
    given = {"input_uri": f"{base}/in", "body": BODY, "id_column": "key", "max_requests_per_batch": 7}
    return job(f"{base}/out", MortalOperator, **{**given, **kwargs})


BODY = {"messages": [{"role": "user", "content": "{text}"}], "metadata": {"devserver": "{marker}"}}


def good(base: str, server: DevServer) -> None:
    found = outputs(f"{base}/out")
    assert [row["custom_id"] for row in found] == [f"k{n}" for n in range(COUNT)]
    assert [row["output"].endswith(f"row {n}") for n, row in enumerate(found) if n != 27] == [True] * (
        COUNT - 1
    )
    assert found[27]["status"] == "failed"
    assert server.stats()["paid_more_than_once"] == 0


def test_a_whole_job(server: DevServer, base: str) -> None:
    summary = run_task(mortal(base))
    good(base, server)
    assert summary["counts"]["succeeded"] == COUNT - 1


@pytest.mark.parametrize(
    ("operation", "moment", "count"),
    [
        ("upload_file", "after", 1),
        ("create_batch", "before", 2),
        ("create_batch", "after", 3),
        ("retrieve_batch", "after", 2),
        ("download_file", "before", 2),
        ("download_file", "after", 4),
    ],
)
def test_a_killed_task(server: DevServer, base: str, operation: str, moment: str, count: int) -> None:
    """Its next try, on another worker, pays nothing twice and leaves nothing behind."""
    operator = mortal(base)
    MortalHook.doom = (operation, moment, count)
    with pytest.raises(Crash):
        run_task(operator)
    MortalHook.doom = ("", "", 0)
    again(operator)
    good(base, server)


def test_a_job_that_does_not_fit_on_its_worker(
    server: DevServer, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "SPARE_BYTES", 0)
    run_task(mortal(base))
    good(base, server)


@pytest.mark.parametrize("options", [{"mode": "live"}, {"canary": 5}])
def test_live_answers(server: DevServer, base: str, options: dict[str, Any]) -> None:
    run_task(mortal(base, **options))
    good(base, server)


def test_parquet(server: DevServer, base: str) -> None:
    """Rows and results; the results are read as a data engineer would read them."""
    import pyarrow as pa

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(COUNT)), sink)
    put(f"{base}/in", {"a.parquet": sink.getvalue(), "_SUCCESS": b""})
    run_task(
        job(
            f"{base}/out",
            input_uri=f"{base}/in",
            body=BODY,
            output_format="parquet",
            keep_columns=["key"],
            max_requests_per_batch=15,
        )
    )
    out = as_path(f"{base}/out")
    table = pq.read_table(f"{out.path}/part-00000.parquet", filesystem=out.fs)
    assert table["key"].to_pylist() == [f"k{n}" for n in range(COUNT)]
    assert table["output"].to_pylist()[7].endswith("row 7")
    assert sorted(written(f"{base}/out")) == ["manifest.json", "part-00000.parquet"]
