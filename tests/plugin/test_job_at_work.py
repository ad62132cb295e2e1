"""A job is not cancelled behind the back of its task, which would ask again for what is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from scene import create, made_by

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

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


def cancel(client: httpx.Client, **of: Any) -> httpx.Response:
    params = {"conn_id": "openai_batches_default", **NAMES, **of}
    return client.post(PATH, params=params, json={}, timeout=120)


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
