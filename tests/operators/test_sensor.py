"""The sensor in its three modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from support import ENDPOINT, request_lines, run_task, task_context

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer


@pytest.fixture
def batch_id(server: DevServer) -> str:
    return created()


@pytest.fixture
def running_id(server: DevServer) -> str:
    """Does not end by itself, however busy the machine is."""
    server.settings(freeze=True)
    return created()


def created() -> str:
    import io

    hook = OpenAIBatchesHook()
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    return hook.create_batch(file.id, ENDPOINT).id


def sensor(batch_id: str, **kwargs: Any) -> OpenAIBatchSensor:
    return OpenAIBatchSensor(**{"task_id": "s", "batch_id": batch_id, "poll_interval": 0.1, **kwargs})


@pytest.mark.parametrize("deferrable", [True, False])
def test_it_returns_the_completed_batch(batch_id: str, *, deferrable: bool) -> None:
    """Deferred, or poking."""
    result = run_task(sensor(batch_id, deferrable=deferrable))
    assert (result["id"], result["status"]) == (batch_id, "completed")


def test_reschedule_mode_gives_the_slot_back(server: DevServer, running_id: str) -> None:
    """It is rescheduled between two looks at the batch."""
    operator = sensor(running_id, deferrable=False, mode="reschedule")
    context = task_context(operator)
    context["ti"].get_first_reschedule_date = lambda _: None
    with pytest.raises(AirflowRescheduleException):
        operator.execute(context)
    server.settings(freeze=False)
    server.force(running_id, status="completed")
    assert operator.execute(context)["status"] == "completed"


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_what_ended_badly_fails_at_once(
    server: DevServer, batch_id: str, status: str, *, deferrable: bool
) -> None:
    """Without using up retries: nothing would change."""
    server.force(batch_id, status=status, after=0.5)
    with pytest.raises(AirflowFailException, match=status):
        run_task(sensor(batch_id, deferrable=deferrable))


def test_a_batch_that_fails_while_it_waits_shows_the_services_errors(
    server: DevServer, running_id: str
) -> None:
    """The list of errors comes along."""
    operator = sensor(running_id)
    with pytest.raises(TaskDeferred):
        operator.execute(task_context(operator))
    errors = {"object": "list", "data": [{"code": "invalid_json_line", "line": 7, "message": "no JSON"}]}
    server.force(running_id, status="failed", errors=errors)
    event = {"status": "finished", "message": "", "batches": {running_id: "failed"}}
    with pytest.raises(AirflowFailException, match="invalid_json_line, line 7: no JSON"):
        sensor(running_id).execute_complete(task_context(operator), event, end_time=0.0)


@pytest.mark.parametrize("deferrable", [True, False])
def test_soft_fail_skips(server: DevServer, batch_id: str, *, deferrable: bool) -> None:
    """As with every sensor."""
    server.force(batch_id, status="expired", after=0.0)
    with pytest.raises(AirflowSkipException):
        run_task(sensor(batch_id, deferrable=deferrable, soft_fail=True))


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize(
    ("soft_fail", "error"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)]
)
def test_the_timeout_is_honoured(
    server: DevServer, running_id: str, error: type[Exception], *, deferrable: bool, soft_fail: bool
) -> None:
    """It says that the batch still runs, and never cancels it: somebody else submitted it."""
    with pytest.raises(error):
        run_task(sensor(running_id, deferrable=deferrable, timeout=0.3, soft_fail=soft_fail))
    assert "cancel_batch" not in server.stats()["requests"]


@pytest.mark.parametrize("deferrable", [True, False])
def test_passing_faults_are_waited_out(
    server: DevServer, batch_id: str, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool
) -> None:
    """Twelve answers of 503 in a row do not fail the task."""
    monkeypatch.setattr(
        OpenAIBatchesHook.__init__, "__kwdefaults__", {"recovery_seconds": None, "sleep": lambda _: None}
    )
    server.faults([{"operation": "retrieve_batch", "action": "status", "status": 503, "times": 12}])
    assert run_task(sensor(batch_id, deferrable=deferrable))["status"] == "completed"


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_batch_that_is_not_there_fails(server: DevServer, *, deferrable: bool) -> None:
    """Waiting would not mend it."""
    with pytest.raises(AirflowFailException, match="cannot be watched: HTTP 404"):
        run_task(sensor("batch_none", deferrable=deferrable))


def test_bad_arguments_are_refused(server: DevServer) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInputError, match="poll_interval is -1"):
        sensor("batch_1", poll_interval=-1)
    with pytest.raises(InvalidInputError, match="batch_id is 'None'"):
        run_task(sensor("None"))
    assert server.stats()["requests"] == {}
