"""What the list says of the tasks whose batches it shows, whatever is in their XComs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import create, made_by

from airflow_provider_openai_batches.inference.job_report import JOB_REPORT, Dollars, JobReport

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Ran = Callable[..., None]

BASE = "/openai-batches/api"
CONN = {"conn_id": "openai_batches_default"}
TASK = ("mine", "run_1", "ask", 2)
MINE = made_by(*TASK)
ORIGIN = {"dag_id": "mine", "run_id": "run_1", "task_id": "ask", "map_index": 2}
REPORT = msgspec.to_builtins(
    JobReport(batches=12, finished=3, rows=1_000, cost=Dollars(0.5, is_known=True), running=["batch_1"])
)


@pytest.fixture(autouse=True)
def _frozen(server: DevServer) -> None:
    server.settings(freeze=True)


def listed(client: httpx.Client, **params: Any) -> Any:
    answer = client.get(f"{BASE}/batches", params={**CONN, **params})
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize("role", ["viewer", "user", "op", "admin"])
def test_the_task_and_the_report(login: Login, server: DevServer, ran: Ran, role: str) -> None:
    """Batches of one task are one job; those of no task of this Airflow are none."""
    for metadata in (MINE, MINE, made_by("elsewhere", "run_9", "ask"), {}):
        create(server, metadata=metadata)
    create(server, metadata=made_by(*TASK, deployment="staging"))
    ran(TASK, **{JOB_REPORT: REPORT})
    (job,) = listed(login(role))["jobs"]
    assert (job["origin"], job["report"]) == (ORIGIN, REPORT)
    assert job["may_cancel"] == (role != "viewer")
    task = job["task"]
    assert (task["state"], task["try_number"], task["ended"]) == ("deferred", 1, None)
    assert task["began"] > 1_700_000_000


def test_a_task_that_airflow_does_not_know(login: Login, server: DevServer, ran: Ran) -> None:
    """Its run was deleted, or it has reported nothing yet. Another map index is another task."""
    create(server, metadata=MINE)
    ran((*TASK[:3], -1), **{JOB_REPORT: REPORT})
    unknown = {"origin": ORIGIN, "task": None, "report": None, "may_cancel": True}
    assert listed(login("user"))["jobs"] == [unknown]


def test_the_newest_first_and_only_those_of_the_filter(login: Login, server: DevServer, ran: Ran) -> None:
    for index in (0, 1):
        create(server, metadata=made_by("mine", "run_1", "ask", index))
    create(server, metadata=made_by("theirs", "run_1", "ask"))
    shown = listed(login("user"), dag_id="mine")["jobs"]
    assert [job["origin"]["map_index"] for job in shown] == [1, 0]


@pytest.mark.parametrize(
    ("refused", "has_task", "has_report"),
    [("TASK_INSTANCE", False, True), ("XCOM", True, False), (None, False, None)],
)
def test_rights(
    login: Login,
    server: DevServer,
    ran: Ran,
    airflow_app: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    refused: str | None,
    has_task: bool,
    has_report: bool | None,
) -> None:
    """A task needs the right to read task instances, its report the right to read XComs, both the DAG's."""

    def allows(*, method: str, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        is_asked = method == "GET" and details is not None and details.id
        return not (is_asked and getattr(access_entity, "value", None) == refused)

    create(server, metadata=MINE)
    ran(TASK, **{JOB_REPORT: REPORT})
    client = login("user")
    monkeypatch.setattr(airflow_app.state.auth_manager, "is_authorized_dag", allows)
    shown = listed(client)["jobs"]
    if has_report is None:
        assert shown == []
    else:
        assert [(job["task"] is not None, job["report"] is not None) for job in shown] == [
            (has_task, has_report)
        ]


# -- hostile XComs -------------------------------------------------------------------------------------------

NOT_A_REPORT: dict[str, Any] = {
    "of a custom backend": "s3://xcoms/mine/run_1/ask/abc.json",
    "null": None,
    "a number": 7,
    "a list": [REPORT],
    "wrong type": {**REPORT, "rows": "many"},
    "markup for a state": {**REPORT, "state": "<script>alert(1)</script>"},
    "not a number": {**REPORT, "at": float("nan")},
    "endless": {**REPORT, "at": float("inf")},
    "negative": {**REPORT, "rows": -1},
    "huge number": {**REPORT, "rows": 10**30},
    "number of many digits": {**REPORT, "rows": 10**4_000},
    "huge text": {**REPORT, "error": "x" * 10**6},
    "a million ids": {**REPORT, "running": ["b"] * 10**6},
    "cost without a price": {**REPORT, "cost": {}},
    "cost of words": {**REPORT, "cost": {"usd": "1", "is_known": True}},
    "cost that is no number": {**REPORT, "cost": {"usd": True, "is_known": True}},
}


@pytest.mark.parametrize("value", NOT_A_REPORT.values(), ids=NOT_A_REPORT)
def test_what_is_no_report_is_left_out(login: Login, server: DevServer, ran: Ran, value: Any) -> None:
    """The other jobs are shown all the same."""
    other = ("mine", "run_1", "ask", 1)
    for task in (TASK, other):
        create(server, metadata=made_by(*task))
    ran(TASK, **{JOB_REPORT: value})
    ran(other, **{JOB_REPORT: REPORT})
    reports = {job["origin"]["map_index"]: job["report"] for job in listed(login("user"))["jobs"]}
    assert reports == {1: REPORT, 2: None}


def test_what_is_too_long_to_show_is_cut(login: Login, server: DevServer, ran: Ran) -> None:
    """And fields that no report has are left out."""
    create(server, metadata=MINE)
    own = {"waits_for": "<b>" * 1_000, "running": ["b" * 600] * 70, "prompt": "secret"}
    ran(TASK, **{JOB_REPORT: {**REPORT, **own, "cost": {**REPORT["cost"], "currency": 4}}})
    report = listed(login("user"))["jobs"][0]["report"]
    assert set(report) == set(REPORT)
    assert report["waits_for"] == ("<b>" * 1_000)[:500]
    assert report["running"] == ["b" * 500] * 70
    assert report["cost"] == REPORT["cost"]


def test_a_report_that_airflow_itself_stored(login: Login, server: DevServer, ran: Ran) -> None:
    """Its own API stores JSON in a string of JSON."""
    create(server, metadata=MINE)
    ran(TASK, **{JOB_REPORT: json.dumps(REPORT)})
    assert listed(login("user"))["jobs"][0]["report"] == REPORT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*REPORT, "usd", "x"]), inner),
    max_leaves=10,
)


@settings(derandomize=True, deadline=None)
@given(st.text() | JSON.map(json.dumps) | st.dictionaries(st.sampled_from([*REPORT]), JSON).map(json.dumps))
def test_no_value_breaks_the_page(stored: str) -> None:
    from airflow_provider_openai_batches.plugin.jobs import report_in

    report = report_in(stored)
    if report is not None:
        shown = json.dumps(report, ensure_ascii=False, allow_nan=False).encode()
        assert msgspec.convert(json.loads(shown), JobReport)


@pytest.mark.parametrize("names", [("mine", "r\0", "ask"), ("mine", "run_1", "a" * 300)])
def test_names_that_no_task_has(login: Login, server: DevServer, names: tuple[str, str, str]) -> None:
    """PostgreSQL refuses a query with a zero byte."""
    create(server, metadata=made_by(*names))
    assert listed(login("user"))["jobs"][0]["task"] is None


# -- how much is asked ---------------------------------------------------------------------------------------


def test_a_page_of_a_hundred_tasks(login: Login, server: DevServer, ran: Ran) -> None:
    """One request to the service, one query for the tasks and one for the reports."""
    from airflow import settings as airflow_settings
    from sqlalchemy import event

    for index in range(101):
        create(server, metadata=made_by("mine", "run_1", "ask", index))
        ran(("mine", "run_1", "ask", index), **{JOB_REPORT: REPORT})
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    client = login("user")
    engine = airflow_settings.engine
    event.listen(engine, "before_cursor_execute", note)
    before = server.stats()["requests"]
    try:
        found = listed(client)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(found["jobs"]) == 100
    assert all(job["task"] and job["report"] == REPORT for job in found["jobs"])
    after = server.stats()["requests"]
    assert after == {**before, "list_batches": before.get("list_batches", 0) + 1}
    assert sum("FROM task_instance" in each for each in statements) == 1
    assert sum("FROM xcom" in each for each in statements) == 1
