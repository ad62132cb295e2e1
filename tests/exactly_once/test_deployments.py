"""An Airflow without a deployment id finds its own batches again, and ends none of another one's."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import again, job, results, rows
from support import fresh, rebuilt, resume, run_task, task_context, until

from airflow_provider_openai_batches.exceptions import BatchTimeout
from airflow_provider_openai_batches.operators import base

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer
    from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

    Make = Callable[..., OpenAICreateBatchOperator]

pytestmark = pytest.mark.usefixtures("patience")
BASE_URL = "AIRFLOW__API__BASE_URL"
DEPLOYMENT_ID = "AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID"
# What changes between two tries: the first try's environment, and the second one's.
CHANGES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "another address": ({BASE_URL: "https://old.example"}, {BASE_URL: "https://new.example"}),
    "a worker without the option": ({BASE_URL: "https://old.example"}, {BASE_URL: ""}),
    "the first worker had none": ({BASE_URL: ""}, {BASE_URL: "https://new.example"}),
    "an id is given": (
        {BASE_URL: "https://old.example", DEPLOYMENT_ID: ""},
        {BASE_URL: "https://old.example", DEPLOYMENT_ID: "production"},
    ),
}


class Change:
    """Sets the environment of the first try, and that of the second when it is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._patch = monkeypatch
        before, self._after = CHANGES[name]
        self._set(before)

    def _set(self, environment: dict[str, str]) -> None:
        for name, value in environment.items():
            self._patch.setenv(name, value)

    def __call__(self) -> None:
        self._set(self._after)


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_openai_batches.idempotency.submit.SEARCH_SECONDS", 0.2)


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Change:
    return Change(monkeypatch, request.param)


def wait(operator: Any, **context: Any) -> TaskDeferred:
    """Run a task until it waits."""
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(task_context(operator, **context))
    return deferral.value


def event_of(deferral: TaskDeferred, status: str = "finished", ended: str = "in_progress") -> dict[str, Any]:
    batches = dict.fromkeys(deferral.trigger.batch_ids, ended)
    return {"status": status, "message": "It took too long.", "batches": batches}


def asked(server: DevServer, *operations: str) -> list[int]:
    made = server.stats()["requests"]
    return [made.get(operation, 0) for operation in operations]


# -- the operator of one batch -------------------------------------------------------------------------------


def test_a_later_try_takes_up_the_batch(server: DevServer, task: Make, change: Change) -> None:
    """Whatever its deployment was called before."""
    server.settings(freeze=True)
    first = wait(task())
    change()
    assert wait(task(), try_number=2).trigger.batch_ids == first.trigger.batch_ids
    assert asked(server, "create_batch", "cancel_batch") == [1, 0]


@pytest.mark.parametrize("stop", ["worker", "trigger", "resumed task", "timeout", "outage and timeout"])
def test_what_may_be_anothers_is_not_cancelled(
    server: DevServer, task: Make, change: Change, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """Two Airflows of one key run the same DAG: both use the batch, and neither ends it for the other."""
    monkeypatch.setattr(base, "task_state", lambda *_: "failed")
    server.settings(freeze=True)
    wait(task())
    change()
    operator = task(cancel_on_timeout=True)
    deferral = wait(operator, try_number=2)
    kwargs: dict[str, Any] = deferral.kwargs or {}
    resumed, context = task(), task_context(task(), try_number=2)
    if stop == "worker":
        operator.on_kill()
    elif stop == "trigger":
        asyncio.run(rebuilt(deferral.trigger).on_kill())
    elif stop == "resumed task":
        resume(resumed, context, event_of(deferral), kwargs)
        resumed.on_kill()
    else:
        if stop == "outage and timeout":
            monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", with_one_attempt(server))
            server.faults([{"operation": "retrieve_batch", "action": "status", "status": 503}])
            with pytest.raises(TaskDeferred) as raised:
                resume(resumed, context, event_of(deferral), kwargs)
            kwargs = raised.value.kwargs or {}
        with pytest.raises(BatchTimeout, match="Nothing was cancelled"):
            resume(task(), context, event_of(deferral, "timeout"), kwargs)
    assert asked(server, "cancel_batch") == [0]


def with_one_attempt(server: DevServer) -> str:
    given = server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"]
    return given.rstrip("}") + ', "extra": {"max_attempts": 1}}'


def test_what_is_its_own_is_cancelled(server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later try whose deployment is called what it was called before."""
    monkeypatch.setattr(base, "task_state", lambda *_: "failed")
    server.settings(freeze=True)
    wait(task())
    deferral = wait(task(), try_number=2)
    with pytest.raises(BatchTimeout, match="is cancelling"):
        resume(task(), task_context(task(), try_number=2), event_of(deferral, "timeout"), deferral.kwargs)


def test_its_own_batch_comes_before_one_of_equal_names(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nobody would wait for its own, which runs."""
    server.settings(freeze=True)
    ids = {}
    for name in ("https://one.example", "https://two.example"):
        monkeypatch.setenv(BASE_URL, name)
        (ids[name],) = wait(task()).trigger.batch_ids
    server.force(ids["https://two.example"], status="completed")
    monkeypatch.setenv(BASE_URL, "https://one.example")
    assert wait(task(), try_number=2).trigger.batch_ids == [ids["https://one.example"]]


@pytest.mark.parametrize("url", ["", "https://airflow.example"])
def test_what_the_first_release_made_is_taken_up(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Its id was [api] base_url, or empty without that option, and had no mark."""
    server.settings(freeze=True)
    monkeypatch.setenv(BASE_URL, url)
    with monkeypatch.context() as before:
        before.setattr(base, "deployment_id", lambda: url)
        first = wait(task())
    assert wait(task(), try_number=2).trigger.batch_ids == first.trigger.batch_ids


@pytest.mark.parametrize("stop", ["worker", "trigger", "timeout", "no triggerer"])
def test_what_the_first_release_made_here_is_cancelled(
    server: DevServer, task: Make, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """Its key proves as much as a key of today: that a deployment with this address made it."""
    monkeypatch.setattr(base, "task_state", lambda *_: "failed")
    monkeypatch.setattr("airflow_provider_openai_batches.compat.supervisor.ask_for_states", lambda *_: {})
    server.settings(freeze=True)
    monkeypatch.setenv(BASE_URL, "https://airflow.example")
    with monkeypatch.context() as before:
        before.setattr(base, "deployment_id", lambda: "https://airflow.example")
        wait(task())
    operator = task(cancel_on_timeout=True)
    context = task_context(operator, try_number=2)
    deferral = wait(operator, try_number=2)
    if stop == "worker":
        operator.on_kill()
    elif stop == "trigger":
        assert deferral.trigger.cancel_on_kill
        asyncio.run(rebuilt(deferral.trigger).cancel_batches())
    elif stop == "timeout":
        with pytest.raises(BatchTimeout, match="is cancelling"):
            resume(fresh(operator), context, event_of(deferral, "timeout"), deferral.kwargs)
    else:
        with pytest.raises(BatchTimeout, match="is cancelled"):
            fresh(operator).resume_execution("__fail__", {"error": "Trigger timeout"}, context)
    assert asked(server, "cancel_batch") == [1]


# -- the operator of a job -----------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_job_goes_on_after_its_wait(server: DevServer, out: Path, change: Change) -> None:
    """On a worker where its deployment goes by another id: it is not taken for another task."""
    operator = job(out, requests=rows(3))
    deferral = wait(operator)
    change()
    until(lambda: all(batch["status"] == "completed" for batch in server.batches()))
    resumed = fresh(operator)
    resume(resumed, task_context(resumed), event_of(deferral, ended="completed"), deferral.kwargs)
    assert [row["status"] for row in results(out)] == ["succeeded"] * 3
    assert asked(server, "create_batch", "cancel_batch") == [1, 0]


@pytest.mark.parametrize("place", ["kept", "lost"])
def test_a_later_try_of_a_job_takes_up_its_batches(
    server: DevServer, out: Path, change: Change, place: str
) -> None:
    """By the id in the job's directory, and where that is lost by the names in the metadata."""
    server.settings(freeze=True)
    operator = job(out, requests=rows(6), max_requests_per_batch=3)
    wait(operator)
    change()
    if place == "lost":
        shutil.rmtree(out)
    second = wait(fresh(operator), try_number=2)
    assert len(second.trigger.batch_ids) == 2
    server.settings(freeze=False)
    assert again(operator, try_number=3)["counts"]["succeeded"] == 6
    assert asked(server, "create_batch", "cancel_batch") == [2, 0]
    assert not (out / "_job").exists()


@pytest.mark.parametrize("place", ["kept", "lost"])
@pytest.mark.parametrize("stop", ["worker", "trigger", "resumed task", "timeout"])
def test_a_job_cancels_what_is_certainly_its_own(  # noqa: PLR0917 - fixtures
    server: DevServer, out: Path, change: Change, monkeypatch: pytest.MonkeyPatch, place: str, stop: str
) -> None:
    """The id in its directory proves that; the names alone do not."""
    monkeypatch.setattr(base, "task_state", lambda *_: "failed")
    monkeypatch.setattr("airflow_provider_openai_batches.compat.supervisor.ask_for_states", lambda *_: {})
    server.settings(freeze=True)
    wait(job(out, requests=rows(3)))
    change()
    if place == "lost":
        shutil.rmtree(out)
    operator = job(out, requests=rows(3), batch_timeout=0.01 if stop == "timeout" else None)
    second = fresh(operator)
    deferral = wait(second, try_number=2)
    assert deferral.trigger.cancel_on_kill is (place == "kept")
    resumed, context = fresh(operator), task_context(operator, try_number=2)
    if stop == "worker":
        second.on_kill()
    elif stop == "trigger":
        if deferral.trigger.cancel_on_kill:
            asyncio.run(rebuilt(deferral.trigger).cancel_batches())
    elif stop == "resumed task":
        with pytest.raises(TaskDeferred):
            resume(resumed, context, event_of(deferral), deferral.kwargs)
        resumed.on_kill()
    else:
        time.sleep(0.02)
        said = (
            "is cancelling" if place == "kept" else "is left running, because another Airflow may have made"
        )
        with pytest.raises(BatchTimeout, match=said):
            resume(resumed, context, event_of(deferral, "timeout"), deferral.kwargs)
    assert asked(server, "cancel_batch") == [1 if place == "kept" else 0]


def test_a_first_try_takes_no_job_of_another_airflow(server: DevServer, out: Path, change: Change) -> None:
    """It has left nothing, so a claim of equal names is another one's."""
    server.settings(freeze=True)
    wait(job(out, requests=rows(3)))
    change()
    with pytest.raises(Exception, match="has been writing"):
        run_task(job(out, requests=rows(3)))
    assert asked(server, "create_batch", "cancel_batch") == [1, 0]


def test_a_job_that_looks_for_batches_says_so(
    server: DevServer, out: Path, logged: Callable[[str], int]
) -> None:
    """Half a minute of silence looks like a task that hangs."""
    run_task(job(out, requests=rows(3)), task_context(job(out, requests=rows(3)), try_number=2))
    assert logged("looking for 0 s, because the list may lag") == 1
    assert asked(server, "create_batch") == [1]


# -- the warning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "deployment_id", "times"),
    [
        ("CeleryExecutor", "", 1),
        ("LocalExecutor,KubernetesExecutor", "", 1),
        ("CeleryExecutor", "production", 0),
        ("LocalExecutor", "", 0),
    ],
)
def test_a_missing_id_is_warned_of_once(  # noqa: PLR0917 - a table
    task: Make,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[str], int],
    executor: str,
    deployment_id: str,
    times: int,
) -> None:
    """Where tasks run on more than one machine."""
    base._warn_of_no_id.cache_clear()
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.setenv(DEPLOYMENT_ID, deployment_id)
    for _ in range(3):
        base.task_identity(task_context(task()))
    assert logged("[openai_batches] deployment_id is not set") == times
