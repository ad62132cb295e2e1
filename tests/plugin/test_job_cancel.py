"""The cancel of a whole job: all batches of a task that are running."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scene import create, made_by
from support import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Refuse = Callable[[str, str | None], None]

BASE = "/openai-batches/api/jobs"
CONN = {"conn_id": "openai_batches_default"}
TASK = ("mine", "run_1", "ask", 2)
MINE = made_by(*TASK)
ORIGIN: dict[str, Any] = {"dag_id": "mine", "run_id": "run_1", "task_id": "ask", "map_index": 2}


@pytest.fixture(autouse=True)
def _frozen(server: DevServer) -> None:
    server.settings(freeze=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_openai_batches.plugin import throttle

    monkeypatch.setattr(throttle, "PER_SECOND", 10_000)
    monkeypatch.setattr(throttle, "PER_SECOND_AND_USER", 10_000)


def cancel(client: httpx.Client, of: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
    params = {**CONN, **ORIGIN, **(of or {})}
    return client.post(f"{BASE}/cancel", **{"params": params, "json": {}, "timeout": 120, **options})


def statuses(server: DevServer) -> dict[str, str]:
    return {batch["id"]: batch["status"] for batch in server.batches()}


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 200), ("op", 200), ("admin", 200)])
def test_a_cancel_by_role(login: Login, server: DevServer, role: str, status: int) -> None:
    """All batches of the task, and none of another index, run, task or deployment, or with a false key."""
    own = {create(server, metadata=MINE) for _ in range(3)}
    for metadata in (
        made_by("mine", "run_1", "ask"),
        made_by("mine", "run_2", "ask", 2),
        made_by("mine", "run_1", "answer", 2),
        made_by(*TASK, deployment="staging"),
        {**MINE, "airflow_key": f"{'0' * 32}-{'0' * 32}"},
        {},
    ):
        create(server, metadata=metadata)
    answer = cancel(login(role))
    assert answer.status_code == status
    gone = {batch_id for batch_id, status in statuses(server).items() if status == "cancelling"}
    assert gone == (own if status == 200 else set())
    if status == 200:
        found = answer.json()
        assert {row["id"] for row in found["batches"]} == own
        assert all(row["status"] == "cancelling" and not row["may_cancel"] for row in found["batches"])
        assert (found["problems"], found["complete"]) == ([], True)
    else:
        assert answer.json()["detail"] == "You may not edit the tasks of DAG 'mine'."
        assert server.stats()["requests"].keys() <= {"upload_file", "create_batch"}


@pytest.mark.parametrize(("method", "entity"), [("GET", None), ("PUT", "TASK_INSTANCE")])
def test_a_cancel_needs_two_rights(
    login: Login,
    server: DevServer,
    refuse: Refuse,
    *,
    method: str,
    entity: str | None,
) -> None:
    batch_id = create(server, metadata=MINE)
    client = login("admin")
    refuse(method, entity)
    assert cancel(client).status_code == 403
    assert statuses(server)[batch_id] == "validating"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_no_cancel_from_another_site(
    login: Login, server: DevServer, headers: dict[str, str], status: int
) -> None:
    batch_id = create(server, metadata=MINE)
    answer = cancel(login("admin"), headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert (statuses(server)[batch_id] == "validating") is (status != 200)
    assert login("admin").get(f"{BASE}/cancel", params={**CONN, **ORIGIN}).status_code == 405


def test_a_task_of_150_batches(login: Login, server: DevServer) -> None:
    """Two pages are read and each batch is cancelled once; those of others are left."""
    server.seed(20, status="in_progress", metadata=made_by("mine", "run_1", "other"))
    server.seed(150, status="in_progress", metadata=MINE)
    client = login("user")
    found = cancel(client).json()
    assert len({row["id"] for row in found["batches"]}) == 150
    assert (found["problems"], found["complete"]) == ([], True)
    assert server.stats()["requests"] == {"list_batches": 2, "cancel_batch": 150}
    others = cancel(client, {"task_id": "other", "map_index": -1}).json()
    assert len(others["batches"]) == 20


def test_batches_that_are_over_are_left_alone(login: Login, server: DevServer) -> None:
    began = time.time()
    for status in ("completed", "failed", "expired", "cancelled", "cancelling"):
        server.seed(1, status=status, metadata=MINE)
    found = cancel(login("user")).json()
    assert (found["batches"], found["problems"], found["complete"]) == ([], [], True)
    assert server.stats()["requests"] == {"list_batches": 1}
    assert entries(began) == []


def test_nothing_is_taken_from_the_cache(
    login: Login, server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that came after the list was read is cancelled too."""
    from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin

    clients = OpenAIBatchesPlugin.fastapi_apps[0]["app"]._app.state.clients
    monkeypatch.setattr(clients, "_seconds", 60)
    client = login("user")
    client.get("/openai-batches/api/batches", params=CONN)
    batch_id = create(server, metadata=MINE)
    assert [row["id"] for row in cancel(client).json()["batches"]] == [batch_id]


def test_one_request_cancels_so_many_at_most(
    login: Login, server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that there may be more, and the next one cancels them."""
    from airflow_provider_openai_batches.plugin import job_routes

    monkeypatch.setattr(job_routes, "MAX_CANCELS", 3)
    for _ in range(5):
        create(server, metadata=MINE)
    client = login("user")
    first, second = cancel(client).json(), cancel(client).json()
    assert (len(first["batches"]), first["complete"]) == (3, False)
    assert (len(second["batches"]), second["complete"]) == (2, True)


def test_so_many_pages_are_read_at_most(
    login: Login, server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so."""
    from airflow_provider_openai_batches.plugin import costs

    monkeypatch.setattr(costs, "MAX_PAGES", 1)
    server.seed(101, status="in_progress", metadata=MINE)
    found = cancel(login("user")).json()
    assert (len(found["batches"]), found["complete"]) == (100, False)


def test_the_list_is_read_back_to_the_beginning_of_the_run(login: Login, server: DevServer) -> None:
    """And no further: the second page is older."""
    server.seed(250, spread_seconds=100_000)
    batch_id = create(server, metadata=MINE)
    found = cancel(login("user")).json()
    assert ([row["id"] for row in found["batches"]], found["complete"]) == ([batch_id], True)
    assert server.stats()["requests"]["list_batches"] == 1


def test_a_run_that_airflow_no_longer_has(login: Login, server: DevServer) -> None:
    """Its batches still run, and still cost money."""
    batch_id = create(server, metadata=made_by("mine", "run_gone", "ask", 2))
    found = cancel(login("user"), {"run_id": "run_gone"}).json()
    assert ([row["id"] for row in found["batches"]], found["complete"]) == ([batch_id], True)


# -- faults --------------------------------------------------------------------------------------------------


def test_one_batch_that_cannot_be_cancelled(login: Login, server: DevServer) -> None:
    """The others are; and what is wrong with it is said without the key."""
    ids = [create(server, metadata=MINE) for _ in range(6)]
    message = "Bad key sk-secret-1234567890"
    body = {"error": {"message": message, "type": "server_error"}}
    rule = {"operation": "cancel_batch", "action": "status", "times": None, "path": ids[2]}
    server.faults([{**rule, "status": 400, "body": body}])
    found = cancel(login("user")).json()
    assert {row["id"] for row in found["batches"]} == {*ids} - {ids[2]}
    (problem,) = found["problems"]
    assert problem["batch_id"] == ids[2]
    assert "HTTP 400" in problem["message"]
    assert statuses(server)[ids[2]] == "validating"


def test_lost_answers(login: Login, server: DevServer) -> None:
    """The batches are cancelled all the same, as a look at them shows."""
    ids = {create(server, metadata=MINE) for _ in range(3)}
    server.faults([{"operation": "cancel_batch", "action": "drop_after", "times": None}])
    found = cancel(login("user")).json()
    assert ({row["id"] for row in found["batches"]}, found["problems"]) == (ids, [])


def test_a_batch_that_ended_meanwhile(login: Login, server: DevServer) -> None:
    """Is no problem: the list still said that it runs."""
    batch_id = create(server, metadata=MINE)
    server.force(batch_id, status="completed")
    shown = {**server.batches()[-1], "status": "in_progress"}
    page = {"object": "list", "data": [shown], "has_more": False}
    server.faults([{"operation": "list_batches", "action": "status", "status": 200, "body": page}])
    found = cancel(login("user")).json()
    assert [(row["id"], row["status"]) for row in found["batches"]] == [(batch_id, "completed")]
    assert found["problems"] == []


def test_the_list_breaks_off(login: Login, server: DevServer) -> None:
    """What was found before is cancelled, and it is said that there may be more."""
    server.seed(150, status="in_progress", metadata=MINE)
    rule = {"operation": "list_batches", "action": "status", "status": 400, "times": None, "skip": 1}
    server.faults([rule])
    found = cancel(login("user")).json()
    assert (len(found["batches"]), found["complete"]) == (100, False)


def test_a_list_that_cannot_be_read(login: Login, server: DevServer) -> None:
    create(server, metadata=MINE)
    server.faults([{"operation": "list_batches", "action": "status", "status": 401, "times": None}])
    answer = cancel(login("user"))
    assert answer.status_code == 502
    assert "refuses the API key" in answer.json()["detail"]


def test_cancels_wait_for_their_turn(
    login: Login, server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a pace at which other requests would be refused."""
    from airflow_provider_openai_batches.plugin import throttle

    ids = {create(server, metadata=MINE) for _ in range(4)}
    monkeypatch.setattr(throttle, "PER_SECOND_AND_USER", 1.5)
    monkeypatch.setattr(throttle, "BURST_SECONDS", 1)
    found = cancel(login("user")).json()
    assert ({row["id"] for row in found["batches"]}, found["problems"]) == (ids, [])


def test_four_cancels_at_a_time(login: Login, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's list has to wait long behind them."""
    from airflow_provider_openai_batches.plugin.clients import CachedClient

    in_time, original = [0], CachedClient.cancel_in_turn
    most = 0

    async def counted(self: CachedClient, batch_id: str) -> Any:
        nonlocal most
        in_time[0] += 1
        most = max(most, in_time[0])
        try:
            return await original(self, batch_id)
        finally:
            in_time[0] -= 1

    monkeypatch.setattr(CachedClient, "cancel_in_turn", counted)
    server.seed(30, status="in_progress", metadata=MINE)
    assert len(cancel(login("user")).json()["batches"]) == 30
    assert most == 4


def test_a_browser_that_goes_away(login: Login, server: DevServer) -> None:
    """The cancels go on."""
    ids = {create(server, metadata=MINE) for _ in range(9)}
    rule = {"operation": "cancel_batch", "action": "delay", "times": None, "seconds": 0.5}
    server.faults([rule])
    with pytest.raises(httpx.ReadTimeout):
        cancel(login("user"), timeout=0.4)
    until(lambda: all(statuses(server)[batch_id] != "validating" for batch_id in ids))


# -- the audit log -------------------------------------------------------------------------------------------


def entries(since: float) -> list[tuple[Any, ...]]:
    from datetime import UTC, datetime

    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(Log).where(Log.dttm >= datetime.fromtimestamp(since, UTC)).order_by(Log.id)
        return [
            (
                log.event,
                log.owner,
                log.dag_id,
                log.run_id,
                log.task_id,
                log.map_index,
                json.loads(log.extra or ""),
            )
            for log in session.scalars(query)
            if log.event in {"cancel_openai_job", "cancel_openai_batch"}
        ]


@pytest.mark.parametrize("lost", [False, True])
def test_the_audit_log(login: Login, server: DevServer, *, lost: bool) -> None:
    """An entry for the job and one for each batch, before the cancels: whatever becomes of these."""
    began = time.time()
    ids = [create(server, metadata=MINE) for _ in range(2)]
    if lost:
        server.faults([{"operation": "cancel_batch", "action": "drop_before", "times": None}])
    assert len(cancel(login("user")).json()["problems"]) == (2 if lost else 0)
    written = entries(began)
    assert {entry[1:6] for entry in written} == {("user", *TASK)}
    assert (written[0][0], written[0][-1]) == (
        "cancel_openai_job",
        {**CONN, "batches": "2", "method": "POST"},
    )
    assert [(entry[0], entry[-1]["batch_id"]) for entry in written[1:]] == [
        ("cancel_openai_batch", batch_id) for batch_id in reversed(ids)
    ]
