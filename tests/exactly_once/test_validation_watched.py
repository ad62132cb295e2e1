"""A job polls again while its batches are validated, so that a rejected one does not wait for the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support import ENDPOINT, first_event, fresh, rebuilt, resume, task_context

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

POLL_INTERVAL = 0.05
LONG, SHORT = 10.0, 0.9


@pytest.fixture
def operator(server: DevServer, tmp_path: Path) -> OpenAIBatchInferenceOperator:
    """A job of two batches, which go on only when they are told to."""
    server.settings(freeze=True)
    return OpenAIBatchInferenceOperator(
        task_id="t",
        endpoint=ENDPOINT,
        model="gpt-5-mini",
        requests=["one", "two"],
        output_uri=str(tmp_path / "out"),
        max_requests_per_batch=1,
        poll_interval=POLL_INTERVAL,
    )


def deferred(run: Callable[..., Any], *args: Any, **kwargs: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        run(*args, **kwargs)
    return caught.value


def heard(wait: TaskDeferred, seconds: float) -> Any:
    """What a wait ends with; None if it does not end in time."""
    try:
        return asyncio.run(asyncio.wait_for(first_event(rebuilt(wait.trigger)), seconds))
    except TimeoutError:
        return None


def test_a_wait_ends_early_only_while_batches_are_validated(
    operator: OpenAIBatchInferenceOperator, server: DevServer
) -> None:
    """Validation is when the service rejects a batch; one that runs is left alone until it is over."""
    context = task_context(operator)
    wait = deferred(operator.execute, context)
    event = heard(wait, LONG)
    assert event is not None
    assert set(event["batches"].values()) <= {"validating", "unknown"}
    for batch in server.batches():
        server.force(batch["id"], status="in_progress", stuck=True)
    for _ in range(3):  # the first of these waits may begin with what the last one saw
        if event is not None:
            resumed = fresh(operator)
            wait = deferred(resume, resumed, context, event, wait.kwargs, wait.method_name)
            event = heard(wait, SHORT)
    assert event is None
