"""What the service does not take at once, or not at all; and how long a job waits."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import again, job, results, rows, waits
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.api.retry import is_passing
from airflow_provider_openai_batches.exceptions import (
    APIError,
    BatchFailed,
    BatchTimeout,
    CreateUncertainError,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
from airflow_provider_openai_batches.idempotency.submit import Submitter
from airflow_provider_openai_batches.inference import submit
from airflow_provider_openai_batches.inference.attempt import Attempt
from airflow_provider_openai_batches.inference.data.job import Job, Limits
from airflow_provider_openai_batches.inference.records import Record, Records
from airflow_provider_openai_batches.inference.settings import Plan
from airflow_provider_openai_batches.inference.workspace import Workplace

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def test_no_more_batches_at_once_than_told(server: DevServer, out: Path) -> None:
    """A place is used as soon as it is free."""
    server.settings(batch_seconds=0.2)
    alive = []
    for wait in waits(job(out, requests=rows(8), max_requests_per_batch=1, max_active_batches=3)):
        alive.append(server.stats()["batches"]["running"])
        expected = "FIRST_COMPLETED" if len(server.batches()) < 8 else "ALL_COMPLETED"
        assert wait.trigger.return_when == expected
    assert max(alive) == 3
    assert len(results(out)) == 8
    assert server.stats()["paid_more_than_once"] == 0


def test_the_enqueued_token_limit_is_waited_for(server: DevServer, out: Path) -> None:
    """What does not fit goes again when others are over; no file is uploaded twice, no try is used."""
    server.settings(batch_seconds=0.3, enqueued_token_limit=150)
    summary = run_task(job(out, requests=rows(12), max_requests_per_batch=2))
    assert summary["counts"]["succeeded"] == 12
    stats = server.stats()
    assert stats["batches"]["by_status"]["completed"] == 6
    assert stats["batches"]["by_status"]["failed"] >= 1
    assert stats["requests"]["upload_file"] == 6
    assert stats["paid_more_than_once"] == 0


def test_a_retry_finds_what_went_again(server: DevServer, out: Path) -> None:
    """A shard's second batch has another key; without the records it is found behind the first."""
    server.settings(batch_seconds=0.2, enqueued_token_limit=150)
    operator = job(out, requests=rows(12), max_requests_per_batch=2, fail_on="any")
    run_task(operator)
    (out / "manifest.json").unlink()
    before = server.stats()["requests"]["create_batch"]
    assert again(operator)["counts"]["succeeded"] == 12
    assert server.stats()["requests"]["create_batch"] == before


def test_a_line_of_others_is_waited_out(server: DevServer, out: Path) -> None:
    """Not one batch of the job runs, and all the same the limit is reached: a pause, then another try."""
    server.settings(enqueued_token_limit=1)
    sizes = []
    for wait in waits(job(out, requests=rows(2))):
        sizes.append(len(wait.trigger.batch_ids))
        if sizes.count(0) == 2:
            server.settings(enqueued_token_limit=1_000_000)
    assert sizes == [1, 0, 1, 0, 1]
    assert len(results(out)) == 2


def attempt(folder: Path, clock: Any, **kwargs: Any) -> Attempt:
    """An attempt that never speaks to a service."""
    hook: Any = None
    task = TaskIdentity("d", "dag", "run", "t")
    log = logging.getLogger("test")
    return Attempt(
        plan=Plan(endpoint="/v1/responses", **kwargs),
        place=Workplace(folder, "me"),
        job=Job(digest="", endpoint="/v1/responses", rows=0, limits=Limits(), shards=[]),
        records=Records(digest="", started=clock()),
        submitter=Submitter(hook, task, None, log),
        log=log,
        clock=clock,
    )


def test_creations_stay_under_the_hourly_limit(tmp_path: Path) -> None:
    """The 1,901st batch waits until an hour after the first one."""
    now = 1_000_000.0
    job_of_many = attempt(tmp_path, lambda: now, max_active_batches=10_000)
    for shard in range(submit.CREATIONS_AN_HOUR):
        job_of_many.records.by_shard[shard] = Record(
            shard, batch_id=str(shard), created_at=now - 1000 + shard / 2
        )
    assert submit._room(job_of_many) == 0
    assert submit.next_creation(job_of_many) == now - 1000 + 3600
    job_of_many.records.by_shard[0].created_at = now - 3601
    assert submit._room(job_of_many) == 1
    assert submit.next_creation(job_of_many) == now


def test_pauses_grow_and_end_after_a_day(tmp_path: Path) -> None:
    """From the poll interval to a quarter of an hour; then the task fails with words."""
    now = [1.0]
    stuck = attempt(tmp_path, lambda: now[0], poll_interval=60.0)
    lengths = []
    while now[0] <= 86_400:
        stuck.pause("it rains")
        lengths.append(stuck.records.not_before - now[0])
        now[0] = stuck.records.not_before
    assert lengths[:6] == [60, 120, 240, 480, 900, 900]
    now[0] += 1
    with pytest.raises(OpenAIBatchesError, match="it rains, for a day now"):
        stuck.pause("it rains")


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (APIError("", status=429), True),
        (APIError("", status=429, code="insufficient_quota"), False),
        (APIError("", status=503), True),
        (APIError("", status=408), True),
        (APIError("", status=400), False),
        (APIError("", status=401), False),
        (TransportError(""), True),
    ],
)
def test_what_passes(error: Any, *, passing: bool) -> None:
    """The rest is for a person to mend."""
    assert is_passing(error) is passing
    assert issubclass(CreateUncertainError, OpenAIBatchesError)


def test_a_rejected_batch_ends_the_job(server: DevServer, out: Path) -> None:
    """What runs is waited for, nothing more is sent, and the next try goes on from there."""
    operator = job(out, requests=rows(9), max_requests_per_batch=3, max_active_batches=2)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    first, second = deferral.value.trigger.batch_ids
    server.force(first, status="failed")
    server.force(second, status="completed")
    event = {"status": "finished", "message": "", "batches": {first: "failed", second: "completed"}}
    with pytest.raises(BatchFailed, match="rejected 1 of 3 batches, and 1 were not submitted") as caught:
        fresh(operator).execute_complete(task_context(operator), event, **deferral.value.kwargs)
    assert "server_error" in str(caught.value)
    assert len(server.batches()) == 2
    assert [row["status"] for row in results(out)] == ["failed"] * 3 + ["succeeded"] * 3 + ["failed"] * 3
    assert results(out)[8]["error"]["code"] == "not_submitted"
    assert again(operator)["counts"]["succeeded"] == 9
    assert server.stats()["paid_more_than_once"] == 0
    assert server.stats()["requests"]["upload_file"] == 3


def test_a_refused_create_ends_the_job(server: DevServer, out: Path) -> None:
    """The first one at once, a later one as a rejected batch."""
    no = {"operation": "create_batch", "action": "status", "status": 400, "code": "bad", "body": "no"}
    server.faults([{**no, "times": 1}])
    operator = job(out, requests=rows(6), max_requests_per_batch=2)
    with pytest.raises(APIError, match="HTTP 400"):
        run_task(operator)
    server.faults([{**no, "times": 1, "skip": 1}])
    with pytest.raises(BatchFailed, match="The service rejected 1 of 3 batches, and 1 were not submitted"):
        again(operator)
    assert again(operator)["counts"]["succeeded"] == 6
    assert server.stats()["paid_more_than_once"] == 0


@pytest.mark.parametrize("cancel", [True, False])
def test_the_time_is_over(server: DevServer, out: Path, *, cancel: bool) -> None:
    """It says what was cancelled; the next try goes on."""
    server.settings(batch_seconds=2)
    operator = job(
        out, requests=rows(4), max_requests_per_batch=2, batch_timeout=0.3, cancel_on_timeout=cancel
    )
    said = "Cancelled: batch_.* is cancel" if cancel else "Nothing was cancelled: it goes on"
    with pytest.raises(BatchTimeout, match=said):
        run_task(operator)
    assert ("cancel_batch" in server.stats()["requests"]) is cancel
    server.settings(batch_seconds=0.05)
    assert again(operator, batch_timeout=60.0)["counts"]["succeeded"] == 4
    assert server.stats()["paid_more_than_once"] == 0


def test_no_round_begins_when_the_time_is_over(server: DevServer, out: Path) -> None:
    """Nothing is submitted only to be cancelled."""
    operator = job(out, requests=rows(2, {0: "fail:500*1"}), batch_timeout=1.0)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    (batch_id,) = deferral.value.trigger.batch_ids
    server.force(batch_id, status="completed")
    time.sleep(1.0)
    event = {"status": "finished", "message": "", "batches": {batch_id: "completed"}}
    with pytest.raises(TaskDeferred) as second:
        operator.execute_complete(task_context(operator), event, **deferral.value.kwargs)
    with pytest.raises(BatchTimeout):
        operator.execute_complete(
            task_context(operator),
            {"status": "finished", "message": "The pause is over.", "batches": {}},
            **second.value.kwargs,
        )
    assert len(server.batches()) == 1


def test_what_waiting_cannot_mend(server: DevServer, out: Path) -> None:
    """The trigger's error is the task's."""
    operator = job(out, requests=rows(2))
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    event = {"status": "error", "message": "the key is refused", "batches": {"batch_1": "unknown"}}
    with pytest.raises(OpenAIBatchesError, match="the key is refused"):
        operator.execute_complete(task_context(operator), event, **deferral.value.kwargs)


def test_the_progress_of_all_shards(server: DevServer, out: Path) -> None:
    """The trigger is told what was done before it; only small values travel."""
    operator = job(out, requests=rows(9, {0: "fail:500*1"}), max_requests_per_batch=3, max_active_batches=3)
    with pytest.raises(TaskDeferred) as first:
        operator.execute(task_context(operator))
    assert first.value.trigger.progress == {
        "batches": 3, "finished": 0, "total": 9, "completed": 0, "failed": 0, "round": 0,
    }  # fmt: skip
    assert set(first.value.kwargs) == {"name", "until"}
    for batch_id in first.value.trigger.batch_ids:
        server.force(batch_id, status="completed")
    event = {
        "status": "finished",
        "message": "",
        "batches": dict.fromkeys(first.value.trigger.batch_ids, "completed"),
    }
    with pytest.raises(TaskDeferred) as second:
        operator.execute_complete(task_context(operator), event, **first.value.kwargs)
    assert second.value.trigger.progress == {
        "batches": 4, "finished": 3, "total": 9, "completed": 8, "failed": 0, "round": 1,
    }  # fmt: skip
