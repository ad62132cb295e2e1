"""When a job is not cancelled: while its task would ask again, and while its user cancels another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scene import create, made_by
from support import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Ran = Callable[..., None]

PATH = "/openai-batches/api/jobs/cancel"
TASK = ("mine", "run_1", "ask", 2)
NAMES = dict(zip(("dag_id", "run_id", "task_id", "map_index"), TASK, strict=True))
AT_WORK = ("running", "deferred", "scheduled", "queued", "restarting", "up_for_retry", "up_for_reschedule")
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")


@pytest.fixture(autouse=True)
def _frozen(server: DevServer) -> None:
    server.settings(freeze=True)


def cancel(client: httpx.Client, timeout: float = 120, **of: Any) -> httpx.Response:
    params = {"conn_id": "openai_batches_default", **NAMES, **of}
    return client.post(PATH, params=params, json={}, timeout=timeout)


@pytest.mark.parametrize("state", [*AT_WORK, None])
def test_a_task_that_is_at_work(login: Login, server: DevServer, ran: Ran, state: str | None) -> None:
    """Or will be: it was cleared, and has no state. The service is not asked for anything."""
    create(server, metadata=made_by(*TASK))
    before = server.stats()["requests"]
    ran(TASK, state)
    answer = cancel(login("user"))
    words = state.replace("_", " ") if state else "about to run"
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"Task 'ask' [2] is {words}: it would ask again. Set it to failed first; nothing was cancelled.",
    )
    assert server.stats()["requests"] == before
    assert server.batches()[0]["status"] == "validating"


@pytest.mark.parametrize("state", OVER)
def test_a_task_that_has_ended(login: Login, server: DevServer, ran: Ran, state: str) -> None:
    """Another task of the run, and another index of the same, may be at work."""
    batch_id = create(server, metadata=made_by(*TASK))
    ran(TASK, state)
    ran((*TASK[:3], 1), "running")
    ran(("mine", "run_1", "other", 2), "running")
    answer = cancel(login("user"))
    assert [batch["id"] for batch in answer.json()["batches"]] == [batch_id]
    assert server.batches()[0]["status"] == "cancelling"


def test_the_task_ends_between_two_requests(login: Login, server: DevServer, ran: Ran) -> None:
    """As when the page sets it to failed: the state is read anew."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    create(server, metadata=made_by(*TASK))
    ran(TASK, "deferred")
    client = login("user")
    assert cancel(client).status_code == 409
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="failed"))
    assert len(cancel(client).json()["batches"]) == 1


def test_who_may_not_cancel_is_not_told_the_state(login: Login, server: DevServer, ran: Ran) -> None:
    ran(TASK, "deferred")
    answer = cancel(login("viewer"))
    assert (answer.status_code, "deferred" in answer.text) == (403, False)


def test_every_state_of_this_airflow_is_one_or_the_other() -> None:
    from airflow.utils.state import TaskInstanceState

    from airflow_provider_openai_batches.compat.dag_tables import TaskState

    ended = {
        state.value for state in TaskInstanceState if not TaskState(state.value, 1, None, None).is_at_work
    }
    assert ended == set(OVER)


# -- one at a time -------------------------------------------------------------------------------------------


def test_one_job_at_a_time(login: Login, server: DevServer) -> None:
    """A user's second one is refused and costs no request; another user's is not. Afterwards it may go on."""
    create(server, metadata=made_by(*TASK))
    server.faults([{"operation": "list_batches", "action": "delay", "seconds": 4}])
    with pytest.raises(httpx.ReadTimeout):
        cancel(login("user"), timeout=0.5)  # it goes on
    answer = cancel(login("user"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
    assert answer.json()["detail"] == (
        "Another job of connection 'openai_batches_default' is being cancelled for you. Wait until that is "
        "done, and try again."
    )
    assert cancel(login("admin")).status_code == 200
    client = login("user")
    until(lambda: cancel(client).status_code == 200)


def test_a_cancel_that_fails_is_over(login: Login, server: DevServer) -> None:
    server.faults([{"operation": "list_batches", "action": "status", "status": 401, "times": 1}])
    client = login("user")
    assert [cancel(client).status_code for _ in range(2)] == [502, 200]


def test_no_turn_is_free(login: Login, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has its turn is cancelled; then it is said that there are more."""
    from airflow_provider_openai_batches.plugin import throttle

    for _ in range(8):
        create(server, metadata=made_by(*TASK))
    monkeypatch.setattr(throttle, "PER_SECOND_AND_USER", 0.001)
    monkeypatch.setattr(throttle, "BURST_SECONDS", 4_000)
    found = cancel(login("user")).json()
    assert (len(found["batches"]), found["problems"], found["complete"]) == (3, [], False)
    states = [batch["status"] for batch in server.batches()]
    assert (states.count("cancelling"), states.count("validating")) == (3, 5)
