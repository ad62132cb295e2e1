"""Batches that the service rejects for now or for good, and how long a job waits."""

from __future__ import annotations

import io
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import again, job, results, rows, waits
from support import ENDPOINT, fresh, request_lines, resume, run_task, task_context

from airflow_provider_openai_batches.api import models
from airflow_provider_openai_batches.api.retry import is_passing
from airflow_provider_openai_batches.exceptions import (
    APIError,
    BatchFailed,
    BatchTimeout,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.records import CREATIONS_AN_HOUR, Records
from airflow_provider_openai_batches.inference.shard_record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def test_no_more_batches_at_once_than_told(server: DevServer, out: Path) -> None:
    """The next batch is created as soon as one of the active ones is over."""
    server.settings(batch_seconds=0.6)
    alive = []
    for wait in waits(job(out, requests=rows(8), max_requests_per_batch=1, max_active_batches=3)):
        alive.append(server.stats()["batches"]["running"])
        expected = "FIRST_COMPLETED" if len(server.batches()) < 8 else "FIRST_EXCEPTION"
        assert wait.trigger.return_when == expected
    assert max(alive) == 3
    assert len(results(out)) == 8
    assert server.stats()["paid_more_than_once"] == 0


@pytest.mark.parametrize(
    "silent", [{"created_at": None, "expires_at": None}, {"expires_at": -62_135_596_800}]
)
def test_a_service_that_says_no_times_keeps_its_batches(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch, silent: dict[str, Any]
) -> None:
    """Some send nothing, some the year 1. A batch that runs was cancelled when another one had ended."""
    convert = models._convert_times

    def without_times(found: Any) -> None:
        if isinstance(found, models.Batch):
            for name, value in silent.items():
                msgspec.structs.force_setattr(found, name, value)
        convert(found)

    monkeypatch.setattr(models, "_convert_times", without_times)
    server.settings(batch_seconds_by_number=[0.1, 1.0])
    summary = run_task(job(out, requests=rows(6), max_requests_per_batch=2, max_active_batches=2))
    assert summary["counts"]["succeeded"] == 6
    assert server.stats()["batches"]["by_status"] == {"completed": 3}


def test_the_enqueued_token_limit_is_waited_for(server: DevServer, out: Path) -> None:
    """A batch that does not fit is sent again when others are over, without a second upload or a new try."""
    server.settings(batch_seconds=1.5, enqueued_token_limit=150)
    summary = run_task(job(out, requests=rows(12), max_requests_per_batch=2))
    assert summary["counts"]["succeeded"] == 12
    stats = server.stats()
    assert stats["batches"]["by_status"]["completed"] == 6
    assert stats["batches"]["by_status"]["failed"] >= 1
    assert stats["requests"]["upload_file"] == 6
    assert stats["paid_more_than_once"] == 0


def test_a_retry_finds_what_went_again(server: DevServer, out: Path) -> None:
    """A shard's second batch has another key; a try without the records still finds it after the first."""
    server.settings(batch_seconds=0.2, enqueued_token_limit=150)
    operator = job(out, requests=rows(12), max_requests_per_batch=2, fail_on="any")
    run_task(operator)
    (out / "manifest.json").unlink()
    before = server.stats()["requests"]["create_batch"]
    assert again(operator)["counts"]["succeeded"] == 12
    assert server.stats()["requests"]["create_batch"] == before


def test_a_line_of_others_is_waited_out(server: DevServer, out: Path) -> None:
    """If the limit is reached although no batch of the job runs, the job pauses and tries again."""
    server.settings(enqueued_token_limit=100, batch_seconds_by_number=[1_000.0])
    hook = OpenAIBatchesHook()
    others = hook.create_batch(hook.upload_file(io.BytesIO(request_lines(4)), "others.jsonl").id, ENDPOINT)
    sizes = []
    for wait in waits(job(out, requests=rows(2))):
        sizes.append(len(wait.trigger.batch_ids))
        if sizes.count(0) == 2:
            server.force(others.id, status="cancelled")
    assert [size for size, _ in groupby(sizes)] == [1, 0, 1, 0, 1]
    assert len(results(out)) == 2


def test_creations_stay_under_the_hourly_limit() -> None:
    """The 1,901st batch waits until an hour after the first one."""
    now = 1_000_000.0
    records = Records(digest="", started=now)
    for shard in range(CREATIONS_AN_HOUR):
        records.by_shard[shard] = Record(shard, batch_id=str(shard), created_at=now - 1000 + shard / 2)
    assert records.room(now, 10_000) == 0
    assert records.next_creation(now) == now - 1000 + 3600
    records.by_shard[0].created_at = now - 3601
    assert records.room(now, 10_000) == 1
    assert records.next_creation(now) == now


def test_no_batch_is_created_during_a_pause_or_beyond_the_limit() -> None:
    """Each success allows one more batch at a time than the token limit had room for."""
    records = Records(digest="", started=0.0, active_limit=2)
    records.by_shard[0] = Record(0, batch_id="batch_0")
    assert records.room(0.0, 10) == 1
    records.pause("it rains", 0.0, 60.0)
    assert [records.room(now, 10) for now in (59.9, 60.0)] == [0, 1]
    assert records.next_creation(0.0) == 60.0
    records.recover()
    assert records.room(0.0, 10) == 2


def test_the_next_try_keeps_what_is_known_of_batches() -> None:
    """Its pauses and limits are forgotten; a rejected shard may have another batch, under another key."""
    known = Records(
        digest="old", started=1.0, salt="s", stopped={1}, active_limit=3, not_before=9.0, setbacks=2
    )
    known.by_shard[0] = Record(0, batch_id="batch_0", files=[])
    known.by_shard[1] = Record(1, batch_id="batch_1", input_file_id="file_1", error=RowError("bad", ""))
    known.by_shard[2] = Record(2, error=RowError("not_submitted", ""))
    second = known.next_try(Records(digest="new", started=5.0, since=4.0))
    assert second == Records(
        digest="new", started=5.0, first_started=1.0, since=4.0, salt="s", stopped={1}, counts_from=1.0,
        by_shard={
            0: Record(0, batch_id="batch_0", files=[]),
            1: Record(1, attempt=1, input_file_id="file_1"),
            2: Record(2),
        },
    )  # fmt: skip
    assert second.next_try(Records(digest="new", started=8.0)).first_started == 1.0


def test_pauses_grow_and_end_after_a_day() -> None:
    """They grow from the poll interval to a quarter of an hour; after a day, an error ends the task."""
    records = Records(digest="", started=1.0)
    now, lengths = 1.0, []
    while now <= 86_400:
        lengths.append(records.pause("it rains", now, 60.0))
        now = records.not_before
    assert lengths[:6] == [60, 120, 240, 480, 900, 900]
    with pytest.raises(OpenAIBatchesError, match="it rains, for a day now"):
        records.pause("it rains", now + 1, 60.0)


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
    """All other errors need a person."""
    assert is_passing(error) is passing


def test_a_rejected_batch_ends_the_job(server: DevServer, out: Path) -> None:
    """The running batches are waited for, no more are created, and the next try goes on from there."""
    operator = job(out, requests=rows(9), max_requests_per_batch=3, max_active_batches=2)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    first, second = deferral.value.trigger.batch_ids
    server.force(first, status="failed")
    server.force(second, status="completed")
    event = {"status": "finished", "message": "", "batches": {first: "failed", second: "completed"}}
    with pytest.raises(BatchFailed, match="rejected 1 of 3 batches, and 1 were not submitted") as caught:
        resume(fresh(operator), task_context(operator), event, deferral.value.kwargs)
    assert "server_error" in str(caught.value)
    assert len(server.batches()) == 2
    assert [row["status"] for row in results(out)] == ["failed"] * 3 + ["succeeded"] * 3 + ["failed"] * 3
    assert results(out)[8]["error"]["code"] == "not_submitted"
    assert again(operator)["counts"]["succeeded"] == 9
    assert server.stats()["paid_more_than_once"] == 0
    assert server.stats()["requests"]["upload_file"] == 3


def test_a_refused_create_ends_the_job(server: DevServer, out: Path) -> None:
    """The first one ends it at once, a later one in the same way as a rejected batch."""
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
    said = "Cancelled: batch_.* is cancel" if cancel else "Nothing was cancelled: the batches run on"
    with pytest.raises(BatchTimeout, match=said):
        run_task(operator)
    assert ("cancel_batch" in server.stats()["requests"]) is cancel
    server.settings(batch_seconds=0.05)
    assert again(operator, batch_timeout=60.0)["counts"]["succeeded"] == 4
    assert server.stats()["paid_more_than_once"] == 0


def test_no_round_begins_when_the_time_is_over(server: DevServer, out: Path) -> None:
    """Nothing is submitted only to be cancelled."""
    operator = job(out, requests=rows(2, {0: "fail:500*1"}), batch_timeout=0.5)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    (batch_id,) = deferral.value.trigger.batch_ids
    server.force(batch_id, status="completed")
    time.sleep(0.5)
    event = {"status": "finished", "message": "", "batches": {batch_id: "completed"}}
    with pytest.raises(TaskDeferred) as second:
        resume(operator, task_context(operator), event, deferral.value.kwargs)
    event = {"status": "finished", "message": "The pause is over.", "batches": {}}
    with pytest.raises(BatchTimeout):
        resume(operator, task_context(operator), event, second.value.kwargs)
    assert len(server.batches()) == 1


def test_what_waiting_cannot_mend(server: DevServer, out: Path) -> None:
    """The trigger's error becomes the task's error."""
    operator = job(out, requests=rows(2))
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    event = {"status": "error", "message": "the key is refused", "batches": {"batch_1": "unknown"}}
    with pytest.raises(OpenAIBatchesError, match="the key is refused"):
        resume(operator, task_context(operator), event, deferral.value.kwargs)


def test_the_progress_of_all_shards(server: DevServer, out: Path) -> None:
    """The trigger is told what was done before it, in a few small values."""
    operator = job(out, requests=rows(6, {0: "fail:500*1"}), max_requests_per_batch=3)
    with pytest.raises(TaskDeferred) as first:
        operator.execute(task_context(operator))
    assert first.value.trigger.progress == {
        "batches": 2, "finished": 0, "total": 6, "completed": 0, "failed": 0, "round": 0,
        "again": 0, "live": 0,
    }  # fmt: skip
    assert set(first.value.kwargs or {}) == {"_of_try", "deployment_id", "name", "until"}
    for batch_id in first.value.trigger.batch_ids:
        server.force(batch_id, status="completed")
    event = {
        "status": "finished",
        "message": "",
        "batches": dict.fromkeys(first.value.trigger.batch_ids, "completed"),
    }
    with pytest.raises(TaskDeferred) as second:
        resume(operator, task_context(operator), event, first.value.kwargs)
    assert second.value.trigger.progress == {
        "batches": 3, "finished": 2, "total": 6, "completed": 5, "failed": 0, "round": 1,
        "again": 1, "live": 0,
    }  # fmt: skip
