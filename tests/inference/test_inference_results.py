"""What is in the output when a job is done, and what the task returns."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from inferencekit import again, job, manifest, results, rows, waits
from pydantic import BaseModel
from support import run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}


class Label(BaseModel):
    label: str


def test_the_directory_of_a_complete_job(server: DevServer, out: Path) -> None:
    """Parts and the manifest, and nothing of the work."""
    summary = run_task(job(out, requests=rows(10), max_requests_per_batch=4, keep_columns=["key"]))
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "part-00000.jsonl"]
    assert [row["key"] for row in results(out)] == [f"k{n}" for n in range(10)]
    found = manifest(out)
    assert found["counts"] == summary["counts"]
    assert found["counts"]["succeeded"] == found["rows"] == 10
    assert [batch["shard"] for batch in found["batches"]] == [0, 1, 2]
    assert summary["usage"]["total_tokens"] == sum(row["usage"]["total_tokens"] for row in results(out))
    assert summary["times"].keys() == {"started", "finished"}


@pytest.mark.parametrize("deferrable", [True, False])
def test_both_ways_to_wait(server: DevServer, out: Path, *, deferrable: bool) -> None:
    """In the triggerer or in the worker, over several rounds."""
    given = rows(6, {1: "fail:429*2", 4: "fail:500*1"})
    summary = run_task(job(out, requests=given, max_requests_per_batch=2, deferrable=deferrable))
    assert summary["counts"]["succeeded"] == 6
    assert summary["rounds"] == 2


def test_the_output_body(server: DevServer, out: Path) -> None:
    """The whole answer."""
    run_task(job(out, requests=rows(2), output="body"))
    assert all(row["output"]["object"] == "chat.completion" for row in results(out))


def test_embeddings_as_parquet(server: DevServer, out: Path) -> None:
    """Numbers, typed."""
    given: dict[str, Any] = {
        "endpoint": "/v1/embeddings",
        "body": {"input": "{text}"},
        "output_format": "parquet",
    }
    summary = run_task(job(out, requests=rows(5), keep_columns=["text"], **given))
    table = pq.read_table(out / summary["parts"][0])
    assert table.column_names == ["custom_id", "text", "status", "output", "usage", "error", "finish_reason"]
    assert str(table.schema.field("output").type) == "list<element: float>"
    assert table.num_rows == 5


@pytest.mark.parametrize("schema", [SCHEMA, Label])
def test_structured_output(server: DevServer, out: Path, schema: Any) -> None:
    """The schema goes into the request, and the answer's value into the row."""
    given = rows(4, {2: "invalid_json"})
    summary = run_task(job(out, requests=given, output_schema=schema))
    assert summary["counts"]["succeeded"] == 3
    good, bad = results(out)[0], results(out)[2]
    assert good["output"].keys() == {"label"}
    assert bad["status"] == "invalid_output"
    assert isinstance(bad["output"], str)
    assert summary["errors"]["invalid_output"]["count"] == 1
    assert len(server.batches()) == 1


def test_invalid_output_can_be_asked_again(server: DevServer, out: Path) -> None:
    """Both answers are paid, and both are in the usage."""
    operator = job(out, requests=rows(3, {1: "invalid_json*1"}), output_schema=Label, retry_invalid=True)
    summary = run_task(operator)
    assert summary["counts"]["succeeded"] == 3
    assert summary["rounds"] == 1
    used = sum(batch["usage"]["total_tokens"] for batch in server.batches())
    assert summary["usage"]["total_tokens"] == used


def test_a_dry_run_spends_nothing(server: DevServer, out: Path) -> None:
    """Not even a connection is needed; the request files are there to look at."""
    summary = run_task(
        job(out, requests=rows(10), max_requests_per_batch=4, dry_run=True, openai_conn_id="no")
    )
    assert server.stats()["requests"] == {}
    assert (summary["rows"], summary["shards"], summary["dry_run"]) == (10, 3, True)
    assert summary["bytes"] == sum(path.stat().st_size for path in out.rglob("shard-0000?.jsonl"))
    assert summary["estimated_tokens"] > 10
    assert summary["models"] == ["gpt-5-mini"]
    assert not (out / "manifest.json").exists()


def test_a_dry_run_is_taken_up_by_the_real_one(server: DevServer, out: Path) -> None:
    """The same task, cleared after dry_run was taken away."""
    operator = job(out, requests=rows(4), dry_run=True)
    run_task(operator)
    assert again(operator, is_dry_run=False)["counts"]["succeeded"] == 4


def test_results_of_another_job_are_not_replaced(server: DevServer, out: Path) -> None:
    """Unless the user says so. The check comes before any spending; old results are kept until the end."""
    run_task(job(out, requests=rows(3)))
    before = server.stats()["requests"]
    other = job(out, requests=rows(5))
    with pytest.raises(InvalidInputError, match=r"holds the results of another job \(3 rows"):
        run_task(other, task_context(other, run_id="other"))
    assert server.stats()["requests"] == before
    assert manifest(out)["rows"] == 3
    other = job(out, requests=rows(5), overwrite=True)
    run_task(other, task_context(other, run_id="other"))
    assert manifest(out)["rows"] == len(results(out)) == 5


def test_the_same_job_costs_nothing_again(server: DevServer, out: Path) -> None:
    """Its manifest says that it is complete; with other output settings it is another job."""
    operator = job(out, requests=rows(3))
    first = run_task(operator)
    before = server.stats()["requests"]
    assert again(operator) == first
    assert server.stats()["requests"] == before
    with pytest.raises(InvalidInputError, match="another job"):
        again(operator, output_kind="body")


def test_with_reuse_off_everything_is_asked_anew(server: DevServer, out: Path) -> None:
    """Every row is asked and paid for again."""
    operator = job(out, requests=rows(3), reuse=False)
    run_task(operator)
    again(operator)
    assert server.stats()["paid_more_than_once"] == 3
    assert len(results(out)) == 3


@pytest.mark.parametrize(
    ("fail_on", "fails"), [("none", False), (0.5, False), (0.2, True), ("any", True), (0, True)]
)
def test_fail_on(server: DevServer, out: Path, fail_on: Any, *, fails: bool) -> None:
    """The parts are written in any case, the manifest only if the task succeeds."""
    operator = job(out, requests=rows(4, {1: "fail:400"}), fail_on=fail_on)
    if fails:
        with pytest.raises(BatchFailed, match=r"1 of 4 rows have no valid answer \(3 succeeded, 1 failed\)"):
            run_task(operator)
    else:
        run_task(operator)
    assert [row["status"] for row in results(out)].count("succeeded") == 3
    assert (out / "manifest.json").exists() != fails


def test_a_failed_job_goes_on_with_what_it_has(server: DevServer, out: Path) -> None:
    """After it is cleared with more rounds, only what is missing is asked, and nothing is paid twice."""
    operator = job(out, requests=rows(6, {1: "fail:500*2"}), fail_on="any", max_rounds=1)
    with pytest.raises(BatchFailed, match=r"1 times server_error, first row-1") as caught:
        run_task(operator)
    assert "continues from there" in str(caught.value)
    assert again(operator, max_rounds=2)["counts"]["succeeded"] == 6
    assert server.stats()["paid_more_than_once"] == 0
    assert server.stats()["request_lines_executed"] == 8


def test_no_row_succeeded(server: DevServer, out: Path) -> None:
    """That fails whatever fail_on says."""
    given = rows(3, dict.fromkeys(range(3), "refuse"))
    with pytest.raises(BatchFailed, match=r"(?s)Not one of 3 rows succeeded \(3 failed\).*refusal"):
        run_task(job(out, requests=given))
    assert len(server.batches()) == 1


def test_the_summary_is_small(server: DevServer, out: Path) -> None:
    """130 batches, many errors: a few kilobytes, with the totals."""
    markers = dict.fromkeys(range(0, 130, 2), "fail:400")
    summary = run_task(
        job(out, requests=rows(130, markers), max_requests_per_batch=1, max_active_batches=200)
    )
    assert summary["batches_total"] == 130
    assert len(summary["batches"]) == 50
    assert len(json.dumps(summary)) < 8_000
    assert len(manifest(out)["batches"]) == 130


def test_input_files_are_deleted_only_if_asked(server: DevServer, out: Path, tmp_path: Path) -> None:
    """After the manifest; results stay at the service."""
    run_task(job(out, requests=rows(4), max_requests_per_batch=2))
    assert "delete_file" not in server.stats()["requests"]
    other = job(tmp_path / "two", requests=rows(4), max_requests_per_batch=2, delete_input_files=True)
    run_task(other, task_context(other, run_id="two"))
    assert server.stats()["requests"]["delete_file"] == 2


def test_files_expire_as_told(server: DevServer, out: Path) -> None:
    """The service is told, and the batch carries the user's metadata."""
    operator = job(
        out, requests=rows(2), output_expires_after=3600, input_expires_after=7200, metadata={"team": "x"}
    )
    run_task(operator)
    (batch,) = server.batches()
    assert batch["metadata"]["team"] == "x"
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

    file = OpenAIBatchesHook().retrieve_file(batch["input_file_id"])
    assert file.expires_at is not None
    assert file.created_at is not None
    assert file.expires_at - file.created_at == 7200


def test_a_store_instead_of_a_disk(server: DevServer) -> None:
    """The work goes through a temporary directory, and all files appear whole in the store."""
    from upath import UPath

    uri = f"memory://bucket/{os.getpid()}/results"
    given = rows(7, {2: "fail:500*1"})
    summary = run_task(job(uri, requests=given, max_requests_per_batch=3, keep_columns=["key"]))
    found = UPath(uri)
    assert sorted(path.name for path in found.iterdir()) == ["manifest.json", "part-00000.jsonl"]
    lines = (found / "part-00000.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"k{n}" for n in range(7)]
    assert (summary["counts"]["succeeded"], summary["output_uri"]) == (7, uri)
    assert server.stats()["paid_more_than_once"] == 0


def test_lines_of_no_use_are_counted_and_kept_aside(server: DevServer, out: Path) -> None:
    """Not JSON, an unknown custom_id, a custom_id that comes twice: none of these reaches a wrong row."""
    body = {"id": "x", "object": "chat.completion", "choices": [{"message": {"content": "hi"}}]}

    def line(custom_id: str) -> str:
        response = {"status_code": 200, "request_id": "r", "body": body}
        return json.dumps({"id": "b", "custom_id": custom_id, "response": response, "error": None})

    content = "\n".join([line("row-0"), line("row-0"), line("stranger"), "{oops", line("row-2")]) + "\n"
    server.faults(
        [{"operation": "download_file", "action": "status", "status": 200, "body": content, "times": 1}]
    )
    summary = run_task(job(out, requests=rows(3), max_rounds=0))
    assert [row["status"] for row in results(out)] == ["succeeded", "missing", "succeeded"]
    assert summary["lines"] == {"lines": 4, "unreadable": 1, "unknown": 1, "duplicates": 1}
    assert (out / "unreadable.txt").read_text() == "{oops\n"


def test_results_land_while_others_run(server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last of several batches ends, the results of the others are there."""
    monkeypatch.setattr("airflow_provider_openai_batches.polling.wait.SHORT_WAIT", 0)
    server.settings(batch_seconds_by_number=[0.05, 0.05, 0.05, 2.0])
    awaited: list[str] = []
    for wait in waits(job(out, requests=rows(8), max_requests_per_batch=2)):
        awaited, before = wait.trigger.batch_ids, server.stats()["requests"].get("download_file", 0)
    assert len(awaited) == 1
    assert (before, server.stats()["requests"]["download_file"]) == (3, 4)
    assert {row["status"] for row in results(out)} == {"succeeded"}
