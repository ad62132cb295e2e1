"""Rounds that overlap, and batches that the enqueued-token limit stops: what is odd about them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import job, rows, waits
from support import fresh, resume, task_context

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def deferred(operator: Any, **context: Any) -> TaskDeferred:
    """Run a task until it waits."""
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(task_context(operator, **context))
    return raised.value


def test_a_rejected_batch_is_waited_for_quietly(server: DevServer, out: Path) -> None:
    """Another batch left a row open that is not asked again any more; the third runs on for a while."""
    server.settings(batch_seconds=0.6)
    operator = job(out, requests=rows(3, {0: "fail:500*1"}), max_requests_per_batch=1, fail_on="any")
    deferral = deferred(operator)
    first, second, third = deferral.trigger.batch_ids
    server.force(first, status="completed")
    server.force(second, status="failed")
    statuses = {first: "completed", second: "failed", third: "in_progress"}
    event = {"status": "finished", "message": "", "batches": statuses}
    with pytest.raises(TaskDeferred) as raised:
        resume(fresh(operator), task_context(operator), event, deferral.kwargs)
    until = (raised.value.kwargs or {})["until"]
    assert until is None or until > time.time()


def test_own_batches_that_are_being_cancelled_are_waited_for_quietly(server: DevServer, out: Path) -> None:
    """They fill the line, and no batch of this try runs: it looks again now and then."""
    server.settings(
        enqueued_token_limit=110,
        batch_seconds=10,
        validating_seconds=0.05,
    )
    operator = job(
        out,
        requests=rows(8),
        max_requests_per_batch=2,
        reuse=False,
        max_enqueued_tokens=110,
        poll_interval=0.2,
    )
    deferred(operator)
    time.sleep(0.2)
    pauses = []
    for wait in waits(fresh(operator), try_number=2):
        if not wait.trigger.batch_ids:
            pauses.append((wait.kwargs or {})["until"] - time.time())
        if len(pauses) == 2 or len(server.batches()) > 3:
            break
    assert pauses
    assert min(pauses) > 0.1
