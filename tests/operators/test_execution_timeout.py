"""``execution_timeout`` ends the wait of a deferred task, as it ends a task that runs."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support import ENDPOINT, request_lines, run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchTimeout
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.base import AIRFLOW_WAITS
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def create(folder: Path, seconds: float, **kwargs: Any) -> OpenAICreateBatchOperator:
    (folder / "in.jsonl").write_bytes(request_lines())
    return OpenAICreateBatchOperator(
        task_id="t",
        endpoint=ENDPOINT,
        input_file=str(folder / "in.jsonl"),
        poll_interval=0.1,
        execution_timeout=timedelta(seconds=seconds),
        **kwargs,
    )


def job(folder: Path, seconds: float, **kwargs: Any) -> OpenAIBatchInferenceOperator:
    return OpenAIBatchInferenceOperator(
        task_id="t",
        endpoint=ENDPOINT,
        requests=["one", "two"],
        model="gpt-5-mini",
        output_uri=str(folder / "out"),
        poll_interval=0.1,
        execution_timeout=timedelta(seconds=seconds),
        **kwargs,
    )


@pytest.mark.parametrize("make", [create, job])
@pytest.mark.parametrize(("cancel", "cancels"), [(True, 1), (False, 0)])
def test_what_becomes_of_the_batch_is_what_cancel_on_timeout_says(
    server: DevServer, tmp_path: Path, make: Any, *, cancel: bool, cancels: int
) -> None:
    """The wait ends in time, and a try is used up."""
    server.settings(freeze=True)
    with pytest.raises(BatchTimeout, match="Cancelled: batch" if cancel else "Nothing was cancelled"):
        run_task(make(tmp_path, 0.5, cancel_on_timeout=cancel))
    assert server.stats()["requests"].get("cancel_batch", 0) == cancels


@pytest.mark.parametrize(("batch_timeout", "least"), [(None, 40.0), (10.0, 10.0), (1000.0, 40.0)])
def test_a_deferral_gets_what_is_left(
    server: DevServer, tmp_path: Path, batch_timeout: float | None, least: float
) -> None:
    """A minute less the twenty seconds that the try has taken; Airflow itself gives a little more."""
    server.settings(freeze=True)
    operator = create(tmp_path, 60, batch_timeout=batch_timeout)
    context, now = task_context(operator), datetime.now(UTC)
    context["ti"].start_date = now - timedelta(seconds=20)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context)
    assert deferral.value.trigger.end_time == pytest.approx(now.timestamp() + least, abs=5)
    assert deferral.value.timeout.total_seconds() == pytest.approx(40 + AIRFLOW_WAITS.total_seconds(), abs=5)


def test_a_sensor_leaves_it_to_airflow(server: DevServer) -> None:
    """It has nothing to cancel."""
    server.settings(freeze=True)
    sensor = OpenAIBatchSensor(
        task_id="wait", batch_id=_batch(OpenAIBatchesHook()), execution_timeout=timedelta(seconds=60)
    )
    with pytest.raises(TaskDeferred) as deferral:
        sensor.execute(task_context(sensor))
    assert deferral.value.timeout.total_seconds() == pytest.approx(60, abs=5)


def _batch(hook: OpenAIBatchesHook) -> str:
    return hook.create_batch(hook.upload_file(io.BytesIO(request_lines())).id, ENDPOINT).id


def test_without_one_the_batches_own_deadlines_count(server: DevServer, tmp_path: Path) -> None:
    """Nothing is added to what the service says."""
    server.settings(freeze=True)
    operator = create(tmp_path, 60)
    operator.execution_timeout = None
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator))
    assert (deferral.value.trigger.end_time, deferral.value.timeout) == (None, None)
