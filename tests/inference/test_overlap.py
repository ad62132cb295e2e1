"""Rounds that overlap, and batches that the enqueued-token limit stops: what is odd about them."""

from __future__ import annotations

import io
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import Crash, MortalHook, MortalOperator, again, job, killed, results, rows, waits
from support import ENDPOINT, fresh, request_lines, resume, run_task, task_context, until

from airflow_provider_openai_batches.exceptions import BatchFailed
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.inference import in_line
from airflow_provider_openai_batches.inference.data import shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def deferred(operator: Any, **context: Any) -> TaskDeferred:
    """Run a task until it waits."""
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(task_context(operator, **context))
    return raised.value


def runs_until(lives: Iterator[TaskDeferred], server: DevServer, batches: int) -> None:
    """Run a task until there are so many batches. It may wait more than once before the next one is due."""
    assert any(len(server.batches()) == batches for _ in lives)


def test_a_rejected_batch_is_waited_for_quietly(server: DevServer, out: Path) -> None:
    """Another batch left a row open that is not asked again any more; the third runs on for a while."""
    server.settings(batch_seconds=60)
    operator = job(out, requests=rows(3, {0: "fail:500*1"}), max_requests_per_batch=1, fail_on="any")
    deferral = deferred(operator)
    first, second, third = deferral.trigger.batch_ids
    server.force(first, status="completed")
    server.force(second, status="failed")
    statuses = {first: "completed", second: "failed", third: "in_progress"}
    event = {"status": "finished", "message": "", "batches": statuses}
    with pytest.raises(TaskDeferred) as raised:
        resume(fresh(operator), task_context(operator), event, deferral.kwargs)
    ends = (raised.value.kwargs or {})["until"]
    assert ends is None or ends > time.time()


def test_own_batches_that_are_being_cancelled_are_waited_for_quietly(server: DevServer, out: Path) -> None:
    """They fill the line, and no batch of this try runs: it looks again now and then."""
    server.settings(enqueued_token_limit=110, batch_seconds=100, validating_seconds=0.05)
    operator = job(
        out,
        requests=rows(8),
        max_requests_per_batch=2,
        reuse=False,
        max_enqueued_tokens=110,
        poll_interval=0.2,
    )
    runs_until(waits(operator), server, 2)  # it begins with one batch, and then fills the line
    before = len(server.batches())
    pauses = []
    for wait in waits(fresh(operator), try_number=2):
        if not wait.trigger.batch_ids:
            pauses.append((wait.kwargs or {})["until"] - time.time())
        if len(pauses) == 2 or len(server.batches()) > before + 1:
            break
    assert pauses
    assert min(pauses) > 0.1


def test_a_found_follow_up_that_is_rejected(server: DevServer, out: Path) -> None:
    """Nothing of it ran, and nobody knows which rows it had: they are asked in another one."""
    server.settings(batch_seconds_by_number=[None, 60])
    operator = job(out, requests=rows(3, {0: "fail:500*1"}))
    runs_until(waits(operator), server, 2)  # the follow-up is submitted
    shutil.rmtree(out)
    deferral = deferred(operator, try_number=2)
    (batch_id,) = deferral.trigger.batch_ids
    server.force(batch_id, status="failed")
    event = {"status": "finished", "message": "", "batches": {batch_id: "failed"}}
    with pytest.raises(TaskDeferred):
        resume(fresh(operator), task_context(operator, try_number=2), event, deferral.kwargs)
    assert again(operator, 3)["counts"]["succeeded"] == 3
    assert len(server.batches()) == 3
    assert server.stats()["paid_more_than_once"] == 0


def test_a_found_follow_up_with_other_rows(server: DevServer, out: Path) -> None:
    """The files of a job were lost and written anew in another order; what is found may be about any row."""
    operator = job(
        out,
        MortalOperator,
        requests=rows(4, dict.fromkeys(range(4), "fail:500*1")),
        max_requests_per_batch=2,
    )
    deferral = deferred(operator)
    statuses = dict.fromkeys(deferral.trigger.batch_ids, "completed")
    for batch_id in statuses:
        server.force(batch_id, status="completed")
    MortalHook.doom = ("create_batch", "after", 1)
    event = {"status": "finished", "message": "", "batches": statuses}
    with pytest.raises(Crash):
        resume(fresh(operator), task_context(operator), event, deferral.kwargs)
    MortalHook.doom = ("", "", 0)
    (path,) = out.glob("_job/*/job.json")
    told = json.loads(path.read_bytes())
    second, third = told["shards"][2:]
    told["shards"][2:] = [{**third, "index": 2}, {**second, "index": 3}]
    path.write_text(json.dumps(told))
    for end in ("jsonl", "ids.jsonl"):
        one, other = (path.with_name(f"shard-0000{number}.{end}") for number in (2, 3))
        other.rename(path.with_name("kept"))
        one.rename(other)
        path.with_name("kept").rename(one)
    assert again(operator)["counts"]["succeeded"] == 4
    assert server.stats()["paid_more_than_once"] == 0


@pytest.mark.parametrize("why", ["the list lags", "there is no room in the metadata"])
def test_own_batches_that_the_list_does_not_show_count(server: DevServer, out: Path, why: str) -> None:
    """The limit is known, so no batch of a job that is alone is rejected."""
    lag = 0.8 if why == "the list lags" else 0.0
    server.settings(enqueued_token_limit=150, batch_seconds=1.0, list_lag_seconds=lag)
    own = {} if lag else {f"k{number}": "v" for number in range(11)}
    operator = job(out, requests=rows(8), max_requests_per_batch=2, max_enqueued_tokens=150, metadata=own)
    assert run_task(operator)["counts"]["succeeded"] == 8
    assert server.stats()["batches"]["by_status"] == {"completed": 4}


def test_a_request_that_is_too_large_while_others_run(server: DevServer, out: Path) -> None:
    """Nothing told the limit before: the task waits for what runs, and then fails with all results."""
    server.settings(enqueued_token_limit=100, batch_seconds=0.5)
    given = rows(3)
    given[2]["text"] = "x" * 1_000
    operator = job(out, requests=given, max_requests_per_batch=1)
    with pytest.raises(
        BatchFailed, match=r"Row 2 has about 29. tokens, but the enqueued-token limit of .* is 100"
    ):
        run_task(operator)
    assert server.stats()["batches"]["running"] == 0
    assert [row["status"] for row in results(out)] == ["succeeded", "succeeded", "failed"]
    with pytest.raises(BatchFailed, match="Row 2 has"):
        again(operator)
    assert server.stats()["requests"]["create_batch"] == 3


@pytest.mark.parametrize("first", [0, 3])
def test_estimates_that_are_too_low(
    server: DevServer, out: Path, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is rejected again although nothing is in line is cut, whatever its estimate says."""
    monkeypatch.setattr(shards, "_BYTES_PER_TOKEN", 8)
    monkeypatch.setattr(in_line, "ratio_of", lambda *_: 1.0)
    server.settings(enqueued_token_limit=100)
    given = rows(first + 4)
    for row in given[first:]:
        row["text"] = "x" * 60
    operator = job(out, requests=given, max_requests_per_batch=first or 4)
    for number, _ in enumerate(waits(operator)):
        assert number < 20
    assert [row["status"] for row in results(out)] == ["succeeded"] * len(given)
    assert server.stats()["batches"]["by_status"]["failed"] <= 4
    assert server.stats()["paid_more_than_once"] == 0


def test_a_shard_that_is_too_large_after_a_rejection(server: DevServer, out: Path) -> None:
    """Its rows are not submitted, and their results say so."""
    server.settings(enqueued_token_limit=100, batch_seconds=0.5, validating_seconds=0.2)
    given = rows(6, {0: "fail:400"})
    operator = job(out, requests=given, max_requests_per_batch=5)
    deferral = deferred(operator)
    first, second = deferral.trigger.batch_ids
    server.force(second, status="failed")
    event = {"status": "finished", "message": "", "batches": {first: "validating", second: "failed"}}
    with pytest.raises(TaskDeferred) as raised:
        resume(fresh(operator), task_context(operator), event, deferral.kwargs)
    until(lambda: server.stats()["batches"]["by_status"].get("failed") == 2)
    event = {"status": "finished", "message": "", "batches": {first: "failed"}}
    with pytest.raises(BatchFailed, match="1 were not submitted"):
        resume(fresh(operator), task_context(operator), event, raised.value.kwargs)
    assert [row["error"]["code"] for row in results(out)] == ["not_submitted"] * 5 + ["server_error"]


def test_pieces_whose_files_are_lost(server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches that are over show by now that it need not have been cut: it is not asked as a whole."""
    monkeypatch.setattr(shards, "_BYTES_PER_TOKEN", 2)
    server.settings(enqueued_token_limit=130)
    operator = job(out, MortalOperator, requests=rows(4), max_enqueued_tokens=130)
    killed(operator, "retrieve_batch", "before", 2)
    shutil.rmtree(out)
    until(lambda: not server.stats()["batches"]["running"])
    assert again(operator)["counts"]["succeeded"] == 4
    assert server.stats()["paid_more_than_once"] == 0


def test_a_large_batch_beside_small_ones(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is never room for it as it is; others, which always come first, leave room for its pieces."""
    monkeypatch.setattr(in_line, "WAITS_AT_MOST", 0.3)
    server.settings(batch_seconds=0.05, batch_seconds_by_number=[1_000.0] * 8, enqueued_token_limit=400)
    hook = OpenAIBatchesHook()
    for number in range(8):
        file = hook.upload_file(io.BytesIO(request_lines(1)), "small.jsonl")
        own = {keys.KEY: f"task{number}-1", keys.TOKENS: "40 gpt-5-mini"}
        hook.create_batch(file.id, ENDPOINT, metadata=own)
    run_task(job(out, requests=rows(12), max_enqueued_tokens=400))
    assert [row["status"] for row in results(out)] == ["succeeded"] * 12
    assert server.stats()["paid_more_than_once"] == 0
    assert server.stats()["batches"]["running"] == 8
