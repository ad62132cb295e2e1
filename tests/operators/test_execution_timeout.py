"""``execution_timeout`` ends the wait of a deferred task, as it ends a task that runs."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from support import ENDPOINT, fresh, request_lines, run_task, task_context

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
        execution_timeout=timedelta(seconds=seconds),
        **{"poll_interval": 0.1, **kwargs},
    )


def job(folder: Path, seconds: float, **kwargs: Any) -> OpenAIBatchInferenceOperator:
    return OpenAIBatchInferenceOperator(
        task_id="t",
        endpoint=ENDPOINT,
        requests=["one", "two"],
        model="gpt-5-mini",
        output_uri=str(folder / "out"),
        execution_timeout=timedelta(seconds=seconds),
        **{"poll_interval": 0.1, **kwargs},
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


def wait(folder: Path, seconds: float, **kwargs: Any) -> OpenAIBatchSensor:
    hook = OpenAIBatchesHook()
    batch = hook.create_batch(hook.upload_file(io.BytesIO(request_lines())).id, ENDPOINT)
    limit = timedelta(seconds=seconds)
    return OpenAIBatchSensor(task_id="t", batch_id=batch.id, execution_timeout=limit, **kwargs)


def deferred(call: Any, *arguments: Any) -> Any:
    with pytest.raises(TaskDeferred) as deferral:
        call(*arguments)
    return deferral.value


@pytest.mark.parametrize("make", [create, job, wait])
def test_the_time_counts_from_the_start_of_the_try(server: DevServer, tmp_path: Path, make: Any) -> None:
    """However often the try is deferred; Airflow 3.0 and 3.1 say that it starts with each resumption."""
    server.settings(freeze=True)
    operator = make(tmp_path, 60, poll_interval=60)
    context, now = task_context(operator), datetime.now(UTC)
    context["ti"].start_date = now - timedelta(seconds=20)
    deferral = deferred(operator.execute, context)
    event = {"status": "finished", "message": "", "batches": {b["id"]: "?" for b in server.batches()}}
    for _ in range(3):
        assert deferral.trigger.end_time == pytest.approx(now.timestamp() + 40, abs=0.1)
        assert deferral.timeout <= timedelta(seconds=40) + AIRFLOW_WAITS
        context["ti"].start_date = datetime.now(UTC)
        server.faults([{"operation": "retrieve_batch", "action": "status", "status": 503, "times": 6}])
        resumed, known = fresh(operator), json.loads(json.dumps({**deferral.kwargs, "event": event}))
        resumed.hook.sleep = lambda _: None
        deferral = deferred(resumed.resume_execution, deferral.method_name, known, context)
    again = deferred(fresh(operator).execute, context)
    start = context["ti"].start_date.timestamp()
    assert again.trigger.end_time == pytest.approx(start + 60, abs=0.1), "another try has all of it"


def test_a_batch_timeout_counts_over_all_waits_for_a_batch(server: DevServer, tmp_path: Path) -> None:
    """A service that is away when the wait ends does not begin it anew."""
    server.settings(freeze=True)
    operator = create(tmp_path, 60, batch_timeout=30)
    operator.execution_timeout = None
    context = task_context(operator)
    first = deferred(operator.execute, context)
    server.faults([{"operation": "retrieve_batch", "action": "status", "status": 503, "times": 6}])
    event = {"status": "finished", "message": "", "batches": {server.batches()[0]["id"]: "?"}}
    resumed = fresh(operator)
    resumed.hook.sleep = lambda _: None
    known = {**first.kwargs, "event": event}
    again = deferred(resumed.resume_execution, first.method_name, known, context)
    assert again.trigger.end_time == first.trigger.end_time is not None


@pytest.mark.parametrize("make", [create, job, wait])
def test_a_retry_begins_anew(server: DevServer, tmp_path: Path, make: Any) -> None:
    """Airflow 3.0 resumes it with the event that ended the try before."""
    server.settings(freeze=True)
    operator = make(tmp_path, 60, poll_interval=60)
    context = task_context(operator)
    context["ti"].start_date = datetime.now(UTC) - timedelta(seconds=30)
    first = deferred(operator.execute, context)
    context["ti"].try_number, context["ti"].start_date = 2, datetime.now(UTC)
    event = {"status": "timeout", "message": "late", "batches": {}}
    known = {**first.kwargs, "event": event}
    again = deferred(fresh(operator).resume_execution, first.method_name, known, context)
    start = context["ti"].start_date.timestamp()
    assert again.trigger.end_time == pytest.approx(start + 60, abs=0.1)
    assert again.trigger.batch_ids == first.trigger.batch_ids


@pytest.mark.parametrize(("own", "error"), [(30.0, AirflowSensorTimeout), (1000.0, BatchTimeout)])
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_sensor_is_retried_unless_its_own_timeout_has_passed(
    server: DevServer, tmp_path: Path, own: float, error: type[Exception], *, soft_fail: bool
) -> None:
    """As in the other modes, in which Airflow raises the errors."""
    server.settings(freeze=True)
    sensor = wait(tmp_path, 60, timeout=own, soft_fail=soft_fail)
    context = task_context(sensor)
    deferral = deferred(sensor.execute, context)
    assert deferral.trigger.end_time == pytest.approx(time.time() + min(own, 60), abs=5)
    event = {"status": "timeout", "message": "late", "batches": {}}
    with pytest.raises(AirflowSkipException if soft_fail else error, match=None if soft_fail else "late"):
        fresh(sensor).resume_execution(deferral.method_name, {**deferral.kwargs, "event": event}, context)


@pytest.mark.parametrize(("cancel", "cancels"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("make", [create, job])
def test_where_no_triggerer_runs_the_batch_fares_the_same(
    server: DevServer, tmp_path: Path, make: Any, *, cancel: bool, cancels: int
) -> None:
    """Airflow ends the deferral then, and tells the task no more than that."""
    server.settings(freeze=True)
    operator = make(tmp_path, 60, cancel_on_timeout=cancel)
    context = task_context(operator)
    deferred(operator.execute, context)
    with pytest.raises(BatchTimeout, match="no triggerer"):
        fresh(operator).resume_execution("__fail__", {"error": "Trigger timeout"}, context)
    assert server.stats()["requests"].get("cancel_batch", 0) == cancels


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.usefixtures("server")
def test_where_no_triggerer_runs_a_sensor_is_retried(tmp_path: Path, *, soft_fail: bool) -> None:
    """Its base class makes an error of it that is not retried."""
    sensor = wait(tmp_path, 60, soft_fail=soft_fail)
    with pytest.raises(AirflowSkipException if soft_fail else BatchTimeout, match="no triggerer"):
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, task_context(sensor))


@pytest.mark.parametrize("make", [create, job, wait])
@pytest.mark.usefixtures("server")
def test_a_trigger_that_fails_is_left_to_airflow(tmp_path: Path, make: Any) -> None:
    operator = make(tmp_path, 60)
    known = {"error": "Trigger failure", "traceback": ["no such module"]}
    with pytest.raises(AirflowException, match="Trigger failure"):
        operator.resume_execution("__fail__", known, task_context(operator))


def test_the_preparation_of_a_job_counts_too(server: DevServer, tmp_path: Path) -> None:
    """The try begins before the first row is read."""
    server.settings(freeze=True)
    operator = job(tmp_path, 60, poll_interval=60)
    context = task_context(operator)
    context["ti"].start_date = datetime.now(UTC) - timedelta(seconds=45)
    deferral = deferred(operator.execute, context)
    assert deferral.trigger.end_time == pytest.approx(time.time() + 15, abs=5)


def test_without_one_the_batches_own_deadlines_count(server: DevServer, tmp_path: Path) -> None:
    """Nothing is added to what the service says."""
    server.settings(freeze=True)
    operator = create(tmp_path, 60)
    operator.execution_timeout = None
    deferral = deferred(operator.execute, task_context(operator))
    assert (deferral.trigger.end_time, deferral.timeout) == (None, None)
