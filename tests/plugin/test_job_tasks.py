"""How tasks are, from Airflow's database alone: a task can end although none of its batches changes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from scene import create, made_by

from airflow_provider_openai_batches.inference.job_report import JOB_REPORT, JobReport

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Refuse = Callable[[str, str | None], None]
    Ran = Callable[..., None]

PATH = "/openai-batches/api/jobs/tasks"
CONN = {"conn_id": "openai_batches_default"}
TASK = ("mine", "run_1", "ask", 2)
REPORT = msgspec.to_builtins(JobReport(batches=12, finished=3, rows=1_000))


def named(task: tuple[str, str, str, int]) -> dict[str, Any]:
    return dict(zip(("dag_id", "run_id", "task_id", "map_index"), task, strict=True))


def ask(client: httpx.Client, *tasks: Any, **options: Any) -> httpx.Response:
    return client.post(PATH, **{"params": CONN, "json": {"tasks": list(tasks)}, **options})


@pytest.mark.parametrize("role", ["viewer", "user", "op", "admin"])
def test_it_is_what_the_list_says(login: Login, server: DevServer, ran: Ran, role: str) -> None:
    """In the order that was asked for, each once, and no request to the service."""
    others = [("mine", "run_1", "ask", 3), ("theirs", "run_1", "ask", -1)]
    for task in (*others, TASK):
        create(server, metadata=made_by(*task))
    ran(TASK, "failed", **{JOB_REPORT: REPORT})
    client = login(role)
    listed = client.get("/openai-batches/api/batches", params=CONN).json()["jobs"]
    before = server.stats()["requests"]
    answer = ask(client, *map(named, (TASK, *others[::-1], TASK)))
    assert answer.status_code == 200
    assert answer.json()["jobs"] == listed
    assert [job["task"] and job["task"]["state"] for job in listed] == ["failed", None, None]
    assert listed[0]["report"] == REPORT
    assert abs(answer.json()["now"] - time.time()) < 600
    assert server.stats()["requests"] == before


def test_the_service_is_not_needed(login: Login, server: DevServer, ran: Ran) -> None:
    """Nor a connection that can be used. A task that is not mapped needs no index."""
    ran((*TASK[:3], -1), "success")
    (job,) = ask(
        login("user"), {"dag_id": "mine", "run_id": "run_1", "task_id": "ask"}, params={"conn_id": "invented"}
    ).json()["jobs"]
    assert (job["origin"]["map_index"], job["task"]["state"]) == (-1, "success")
    assert server.stats()["requests"] == {}


def test_dags_that_nobody_knows_or_may_read(
    login: Login, server: DevServer, ran: Ran, refuse: Refuse
) -> None:
    """Are left out, without a word about which of the two."""
    ran(TASK)
    client = login("admin")
    refuse("GET", None)
    tasks = [named(TASK), named(("invented", "run_1", "ask", -1)), named(("theirs", "run_1", "ask", -1))]
    assert [job["origin"]["dag_id"] for job in ask(client, *tasks).json()["jobs"]] == ["theirs"]


@pytest.mark.parametrize(("entity", "left"), [("TASK_INSTANCE", "report"), ("XCOM", "task")])
def test_two_more_rights(
    login: Login, server: DevServer, ran: Ran, refuse: Refuse, *, entity: str, left: str
) -> None:
    ran(TASK, **{JOB_REPORT: REPORT})
    client = login("admin")
    refuse("GET", entity)
    (job,) = ask(client, named(TASK)).json()["jobs"]
    assert {name for name in ("task", "report") if job[name]} == {left}


def test_only_who_is_logged_in(client: httpx.Client) -> None:
    assert ask(client, named(TASK)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"sec-fetch-site": "cross-site"}, 403), ({"content-type": "text/plain"}, 415), ({}, 200)],
)
def test_not_from_another_site(login: Login, server: DevServer, headers: dict[str, str], status: int) -> None:
    assert ask(login("user"), headers={"content-type": "application/json", **headers}).status_code == status


def test_a_hundred_tasks(login: Login, server: DevServer, ran: Ran) -> None:
    """And no more."""
    tasks = [named(("mine", "run_1", "ask", index)) for index in range(101)]
    client = login("user")
    assert len(ask(client, *tasks[:100]).json()["jobs"]) == 100
    assert ask(client, *tasks).status_code == 422
    assert ask(client).json()["jobs"] == []


@pytest.mark.parametrize(
    "task",
    [
        {},
        7,
        None,
        {**named(TASK), "run_id": ""},
        {**named(TASK), "run_id": None},
        {**named(TASK), "task_id": "x" * 600},
        {**named(TASK), "map_index": -2},
        {**named(TASK), "map_index": 10**12},
    ],
)
def test_what_is_no_task(login: Login, server: DevServer, task: Any) -> None:
    answer = ask(login("user"), task)
    assert (answer.status_code, answer.json()["detail"][:27]) == (422, "The request cannot be read.")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"tasks": 1}', "[" * 100_000])
def test_what_is_no_list(login: Login, server: DevServer, content: str) -> None:
    headers = {"content-type": "application/json"}
    answer = login("user").post(PATH, params=CONN, content=content, headers=headers)
    assert answer.status_code in {400, 422}
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("name", ["r\0", "\ud800", "a" * 300])
@pytest.mark.parametrize("field", ["dag_id", "run_id", "task_id"])
def test_names_that_nothing_has(login: Login, server: DevServer, ran: Ran, field: str, name: str) -> None:
    """Databases refuse some of them, and half a pair of surrogates cannot be sent back."""
    ran(TASK)
    content = json.dumps({"tasks": [named(TASK), {**named(TASK), field: name}]})
    headers = {"content-type": "application/json"}
    answer = login("user").post(PATH, params=CONN, content=content, headers=headers)
    assert answer.status_code in {200, 422}
    if answer.status_code == 200:
        found = answer.json()["jobs"]
        assert [job["task"] is not None for job in found] == [True] if field == "dag_id" else [True, False]
