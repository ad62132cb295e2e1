"""Every route, for every role of the simple auth manager, without login, and with another's DAG."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from scene import create, made_by

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Connection = Callable[..., str]

BASE = "/openai-batches"
CONN = {"conn_id": "openai_batches_default"}
MINE = made_by("mine", "run_1", "ask", 2)
FOREIGN = made_by("elsewhere", "run_9", "ask")
ROUTES = [
    ("GET", "/"),
    ("GET", "/api/connections"),
    ("GET", "/api/batches"),
    ("GET", "/api/costs"),
    ("GET", "/api/costs/days"),
    ("GET", "/api/jobs/summary"),
    ("POST", "/api/jobs/cancel"),
    ("POST", "/api/jobs/tasks"),
    ("GET", "/api/batches/batch_x"),
    ("POST", "/api/batches/batch_x/cancel"),
]


@pytest.fixture(autouse=True)
def _frozen(server: DevServer) -> None:
    """Batches stay as they are until a test changes them."""
    server.settings(freeze=True)


def get(client: httpx.Client, path: str, **params: Any) -> Any:
    return client.get(f"{BASE}/api/{path}", params={**CONN, **params})


def cancel(client: httpx.Client, batch_id: str, **kwargs: Any) -> Any:
    return client.post(f"{BASE}/api/batches/{batch_id}/cancel", params=CONN, **{"json": {}, **kwargs})


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_without_login(client: httpx.Client, method: str, path: str) -> None:
    """Without login every route answers 401, and nothing else."""
    answer = client.request(method, BASE + path, params=CONN, headers={"content-type": "application/json"})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Not authenticated"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_without_a_role(login: Login, method: str, path: str) -> None:
    """A user whose role permits nothing gets 403 from every route."""
    answer = login("").request(method, BASE + path, params=CONN, headers={"content-type": "application/json"})
    assert answer.status_code == 403


def test_these_are_all_routes(client: httpx.Client) -> None:
    """So that the tests of rights leave none out."""
    from airflow_provider_openai_batches.plugin import app, job_routes

    routers = app.router, app.api, job_routes.jobs_api
    routes: list[Any] = [route for router in routers for route in router.routes]
    found = {(method, route.path) for route in routes for method in route.methods}
    assert found == {(method, path.replace("batch_x", "{batch_id}")) for method, path in ROUTES}


SECRET = "sk-secret-1234567890"
PROMPT = "what the prompt says"
OF_TASK = {"dag_id": "mine", "run_id": "run_1", "task_id": "ask", "map_index": "2"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_with_a_key_or_a_prompt(
    login: Login,
    server: DevServer,
    connection: Connection,
    ran: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    method: str,
    path: str,
) -> None:
    """Nor when the service fails and repeats the key."""
    own_body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": PROMPT}]}
    monkeypatch.setattr("scene.body", lambda *_: own_body)
    conn_id = connection("own", host=server.base_url, password=SECRET)
    batch_id = create(server, metadata=MINE)
    summary = {"rows": 1, "output_uri": "s3://out", "key": SECRET, "rows_asked": [PROMPT]}
    report = {"state": "waiting", "key": SECRET, "prompt": PROMPT, "cost": None}
    ran(("mine", "run_1", "ask", 2), return_value=summary, openai_batches_job=report)
    client = login("admin")
    params = {"conn_id": conn_id, **OF_TASK}
    for faults in ([], [{"operation": "*", "action": "status", "times": None, "status": 400, "body": LEAK}]):
        server.faults(faults)
        answer = client.request(
            method,
            BASE + path.replace("batch_x", batch_id),
            params=params,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code < 500 or faults
        assert SECRET not in answer.text
        assert PROMPT not in answer.text


LEAK = {"error": {"message": f"No such thing for {SECRET}", "type": "invalid_request_error"}}


@pytest.mark.parametrize(
    ("role", "foreign"), [("viewer", False), ("user", False), ("op", True), ("admin", True)]
)
def test_the_list_by_role(login: Login, server: DevServer, role: str, foreign: bool) -> None:
    """Who may read DAGs sees their batches; batches without a DAG need the right to read connections."""
    mine = create(server, metadata=MINE)
    others = {create(server, metadata=FOREIGN), create(server)}
    answer = get(login(role), "batches").json()
    ids = {row["id"] for row in answer["batches"]}
    assert ids == ({mine} | others if foreign else {mine})
    assert answer["hidden"] == (0 if foreign else 2)
    assert answer["next"] is None


def test_a_row(login: Login, server: DevServer) -> None:
    """A row says how far a batch is, and which task of which run made it."""
    batch_id = create(server, metadata=MINE)
    row = get(login("user"), "batches").json()["batches"][0]
    assert row["id"] == batch_id
    assert row["origin"] == {"dag_id": "mine", "run_id": "run_1", "task_id": "ask", "map_index": 2}
    assert (row["status"], row["is_over"], row["may_cancel"], row["dag_known"]) == (
        "validating",
        False,
        True,
        True,
    )
    assert set(row["counts"]) == {"total", "completed", "failed"}


@pytest.mark.parametrize(
    ("role", "metadata", "status"),
    [
        ("viewer", MINE, 200),
        ("viewer", FOREIGN, 403),
        ("viewer", {}, 403),
        ("user", MINE, 200),
        ("user", FOREIGN, 403),
        ("op", FOREIGN, 200),
        ("admin", {}, 200),
    ],
)
def test_details_by_role(
    login: Login, server: DevServer, role: str, metadata: dict[str, str], status: int
) -> None:
    """The details of a batch are for those who see it in the list."""
    batch_id = create(server, metadata=metadata)
    assert get(login(role), f"batches/{batch_id}").status_code == status


@pytest.mark.parametrize(
    ("role", "metadata", "status"),
    [
        ("viewer", MINE, 403),
        ("viewer", {}, 403),
        ("user", MINE, 200),
        ("user", FOREIGN, 403),
        ("op", MINE, 200),
        ("op", FOREIGN, 200),
        ("admin", {}, 200),
    ],
)
def test_cancel_by_role(
    login: Login, server: DevServer, role: str, metadata: dict[str, str], status: int
) -> None:
    """Only users who may edit the DAG's task instances cancel a batch; for others it goes on."""
    batch_id = create(server, metadata=metadata)
    answer = cancel(login(role), batch_id)
    assert answer.status_code == status
    now = next(batch["status"] for batch in server.batches() if batch["id"] == batch_id)
    assert (now in {"cancelling", "cancelled"}) == (status == 200)
    assert get(login("admin"), "batches").json()["batches"][0]["may_cancel"] is (status != 200)


def test_another_users_dag(
    login: Login, server: DevServer, airflow_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an auth manager that knows single DAGs, users see and cancel only the batches of their DAGs."""
    manager = airflow_app.state.auth_manager

    def only_mine(*, method: str, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        return details is None or details.id in {None, "mine"}

    mine, theirs = create(server, metadata=MINE), create(server, metadata=made_by("theirs", "r", "t"))
    client = login("user")
    monkeypatch.setattr(manager, "is_authorized_dag", only_mine)
    assert [row["id"] for row in get(client, "batches").json()["batches"]] == [mine]
    assert get(client, f"batches/{theirs}").status_code == 403
    refused = cancel(client, theirs)
    assert refused.status_code == 403
    assert theirs in refused.json()["detail"]
    of_theirs = get(
        client, "batches", dag_id="theirs", run_id="r"
    )  # Airflow 3.0 looks for a DAG in paths only
    assert of_theirs.status_code == 403 or of_theirs.json()["batches"] == []


def test_editing_a_dag_is_not_editing_its_task_instances(
    login: Login, server: DevServer, airflow_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel needs the right that clearing and marking tasks need."""
    asked = []

    def not_task_instances(*, method: str, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        asked.append((method, getattr(access_entity, "value", None)))
        return getattr(access_entity, "value", None) != "TASK_INSTANCE"

    batch_id = create(server, metadata=MINE)
    client = login("user")
    monkeypatch.setattr(airflow_app.state.auth_manager, "is_authorized_dag", not_task_instances)
    assert cancel(client, batch_id).status_code == 403
    assert ("PUT", "TASK_INSTANCE") in asked


def test_cancel_is_in_the_audit_log(login: Login, server: DevServer) -> None:
    """Airflow's audit log says who cancelled which batch."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    batch_id = create(server, metadata=MINE)
    cancel(login("user"), batch_id)
    with create_session() as session:
        entry = session.scalars(
            select(Log).where(Log.event == "cancel_openai_batch").order_by(Log.id.desc())
        ).first()
        assert entry is not None
        assert entry.owner == "user"
        assert batch_id in (entry.extra or "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_no_cancel_from_another_site(
    login: Login, server: DevServer, headers: dict[str, str], status: int
) -> None:
    """A form or script of another site cancels nothing, even with the user's cookie."""
    batch_id = create(server, metadata=MINE)
    answer = cancel(login("admin"), batch_id, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert server.stats()["requests"].get("cancel_batch", 0) == (1 if status == 200 else 0)


def test_get_cancels_nothing(login: Login, server: DevServer) -> None:
    """A link cannot cancel."""
    batch_id = create(server, metadata=MINE)
    answer = login("admin").get(f"{BASE}/api/batches/{batch_id}/cancel", params=CONN)
    assert answer.status_code == 405


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/static/style.css", "/api/connections"])
def test_headers(login: Login, path: str) -> None:
    """Every answer has a content security policy without unsafe-inline, and forbids guessing its type."""
    from airflow_provider_openai_batches.plugin.app import HEADERS

    answer = login("viewer").get(BASE + path)
    assert answer.status_code == 200
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_connections(login: Login, connection: Connection) -> None:
    """Only the ids of fitting connections are listed, the default one first."""
    from airflow.models.connection import Connection as Row
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(
            Row(conn_id="z_openai", conn_type="openai", password="sk-no", host="h", extra='{"a": "b"}')
        )
        session.add(Row(conn_id="a_batches", conn_type="openai_batches", password="sk-no"))
        session.add(Row(conn_id="warehouse", conn_type="postgres", password="sk-no"))
    try:
        answer = login("viewer").get(f"{BASE}/api/connections")
        assert answer.json()["connections"] == ["openai_batches_default", "a_batches", "z_openai"]
        assert sorted(answer.json()) == ["connections", "versions"]
        assert "sk-no" not in answer.text
    finally:
        with create_session() as session:
            session.query(Row).delete()


def test_a_run_shows_its_own_batches(login: Login, server: DevServer) -> None:
    """The page of a run has only the batches of that run."""
    batch_id = create(server, metadata=MINE)
    create(server, metadata=made_by("mine", "run_2", "ask"))
    answer = get(login("viewer"), "batches", dag_id="mine", run_id="run_1").json()
    assert [row["id"] for row in answer["batches"]] == [batch_id]
    assert answer["hidden"] == 0


def test_batches_older_than_a_run_are_not_searched(login: Login, server: DevServer) -> None:
    """The list ends where batches are older than their run can be."""
    server.seed(250, spread_seconds=100_000)
    client = login("viewer")
    assert get(client, "batches").json()["next"]
    assert get(client, "batches", dag_id="mine", run_id="run_1").json()["next"] is None


def test_pages(login: Login, server: DevServer) -> None:
    """Cursors lead through all batches, and show each of them once."""
    server.seed(250, metadata=MINE)
    client, ids, after = login("viewer"), [], None
    for _ in range(3):
        answer = get(client, "batches", **({"after": after} if after else {})).json()
        ids += [row["id"] for row in answer["batches"]]
        after = answer["next"]
    assert after is None
    assert len(ids) == len(set(ids)) == 250


def test_details(login: Login, server: DevServer) -> None:
    """Times, files with sizes, the first failed requests, and the user's metadata without ours."""
    server.settings(freeze=False)
    batch_id = create(server, quirks=("fail:400", None), metadata={**MINE, "source": "s3://in"})
    deadline = time.monotonic() + 10
    while server.batches()[-1]["status"] != "completed" and time.monotonic() < deadline:
        time.sleep(0.05)
    shown = get(login("viewer"), f"batches/{batch_id}").json()
    assert {file["role"] for file in shown["files"]} == {"input", "output", "errors"}
    assert all(file["bytes"] > 0 for file in shown["files"])
    assert shown["failures"] == ["row-0: HTTP 400: The dev server answers 400, as the request asked it to."]
    assert shown["metadata"] == {"source": "s3://in"}
    assert shown["times"]["completed_at"] >= shown["times"]["created_at"]
    assert shown["link"] is None


def test_a_file_that_is_gone(login: Login, server: DevServer) -> None:
    """The panel still comes, and says which file is gone."""
    batch_id = create(server, metadata=MINE)
    server.force(batch_id, error_file_id="file-gone", input_file_id="file-gone-too")
    shown = get(login("viewer"), f"batches/{batch_id}").json()
    assert {file["problem"] for file in shown["files"]} == {"deleted or expired"}
    assert shown["failures"] == []


def test_the_services_own_page(login: Login, server: DevServer, connection: Connection) -> None:
    """There is a link if the connection names the service's console."""
    connection(
        "with_console",
        host=server.base_url,
        password="k",
        extra={"console_url": "https://console.example/b/"},
    )
    batch_id = create(server, metadata=MINE)
    shown = get(login("viewer"), f"batches/{batch_id}", conn_id="with_console").json()
    assert shown["link"] == f"https://console.example/b/{batch_id}"
