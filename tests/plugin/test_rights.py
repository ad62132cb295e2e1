"""A batch belongs to a DAG only if its key proves it: anybody with the API key can write a DAG's name."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import DEPLOYMENT, create, made_by

from airflow_provider_openai_batches.api.models import Batch
from airflow_provider_openai_batches.idempotency.keys import KEY, UNNAMED, Origin, TaskIdentity, is_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from airflow.models.log import Log

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]

BASE = "/openai-batches/api/batches"
CONN = {"conn_id": "openai_batches_default"}
TASK = ("mine", "run_1", "ask", 2)
OWN = made_by(*TASK)
STAGING = made_by(*TASK, deployment="staging")
URL = "https://airflow.example"
HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def _frozen(server: DevServer) -> None:
    server.settings(freeze=True)


def cancel(client: httpx.Client, batch_id: str, **options: Any) -> httpx.Response:
    return client.post(f"{BASE}/{batch_id}/cancel", **{"params": CONN, "json": {}, **options})


def status_of(server: DevServer, batch_id: str) -> str:
    return next(str(batch["status"]) for batch in server.batches() if batch["id"] == batch_id)


@pytest.mark.parametrize(
    ("option", "here", "maker", "is_own"),
    [
        ("OPENAI_BATCHES__DEPLOYMENT_ID", "production", "production", True),
        ("OPENAI_BATCHES__DEPLOYMENT_ID", "production", "staging", False),
        ("OPENAI_BATCHES__DEPLOYMENT_ID", "production", f"{UNNAMED}production", False),
        ("API__BASE_URL", URL, f"{UNNAMED}{URL}", True),
        ("API__BASE_URL", URL, f"{UNNAMED}https://other.example", False),
        ("API__BASE_URL", URL, URL, True),  # of the first release
        ("API__BASE_URL", URL, "production", False),
        ("API__BASE_URL", "", f"{UNNAMED}{HOST}", True),
        ("API__BASE_URL", "", HOST, False),  # of a deployment with this id
        ("API__BASE_URL", "", "", False),  # of the first release, in which all without a URL shared a key
    ],
)
def test_a_batch_of_another_deployment_is_not_of_the_dag(
    login: Login,
    server: DevServer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    option: str,
    here: str,
    maker: str,
    is_own: bool,
) -> None:
    """Who may edit the DAG of that name neither sees nor cancels it."""
    client = login("user")
    monkeypatch.delenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID")
    monkeypatch.setenv(f"AIRFLOW__{option}", here)
    batch_id = create(server, metadata=made_by(*TASK, deployment=maker))
    listed = client.get(BASE, params=CONN).json()
    assert ([row["id"] for row in listed["batches"]], listed["hidden"]) == (
        ([batch_id], 0) if is_own else ([], 1)
    )
    right = 200 if is_own else 403
    assert client.get(f"{BASE}/{batch_id}", params=CONN).status_code == right
    assert cancel(client, batch_id).status_code == right
    assert (status_of(server, batch_id) != "validating") is is_own


@pytest.mark.parametrize("key", [None, "", "-", OWN[KEY].partition("-")[0], f"{'0' * 32}-{'0' * 32}"])
def test_a_batch_without_the_key_of_its_task_is_not_of_the_dag(
    login: Login, server: DevServer, key: str | None
) -> None:
    """Names alone prove nothing, nor does half a key."""
    metadata = {name: value for name, value in {**OWN, KEY: key}.items() if value is not None}
    batch_id = create(server, metadata=metadata)
    assert cancel(login("user"), batch_id).status_code == 403
    assert status_of(server, batch_id) == "validating"


def test_a_key_of_another_task_is_no_proof(login: Login, server: DevServer) -> None:
    """Somebody could copy the key of a batch, and write another DAG's name next to it."""
    theirs = made_by("theirs", "run_1", "ask", 2)
    batch_id = create(server, metadata={**theirs, KEY: OWN[KEY]})
    assert cancel(login("user"), batch_id).status_code == 403


def test_a_batch_of_another_deployment_is_not_shown_among_those_of_the_dag(
    login: Login, server: DevServer
) -> None:
    """One list has both."""
    own, _ = create(server, metadata=OWN), create(server, metadata=STAGING)
    listed = login("user").get(BASE, params={**CONN, "dag_id": "mine", "run_id": "run_1"}).json()
    assert ([row["id"] for row in listed["batches"]], listed["hidden"]) == ([own], 1)


def test_who_may_edit_the_connection_cancels_it(login: Login, server: DevServer) -> None:
    """It belongs to the connection, and is shown without links to a DAG of this Airflow."""
    batch_id = create(server, metadata=STAGING)
    client = login("op")
    row = client.get(BASE, params=CONN).json()["batches"][0]
    assert (row["dag_known"], row["may_cancel"], row["origin"]["dag_id"]) == (False, True, "mine")
    assert cancel(client, batch_id).status_code == 200


def test_the_refusal_names_the_right_that_is_missing(login: Login, server: DevServer) -> None:
    """The DAG's for its batches, the connection's for all others."""
    own, other = create(server, metadata=OWN), create(server, metadata=STAGING)
    client = login("viewer")
    assert "you may not edit the tasks of its DAG" in cancel(client, own).json()["detail"]
    words = "no DAG of this Airflow is known to have made it, and you may not read connection"
    assert words in cancel(client, other).json()["detail"]


NAMES = st.text(min_size=1, max_size=3)
DEPLOYMENTS = st.builds(
    lambda mark, name: f"{mark}{name}", st.sampled_from(["", UNNAMED]), st.sampled_from("abc") | NAMES
)
TASKS = st.tuples(NAMES, NAMES, NAMES, st.integers(-1, 3))


@settings(deadline=None)
@given(DEPLOYMENTS, DEPLOYMENTS, TASKS, TASKS)
def test_a_key_proves_one_deployment_and_one_task(
    here: str, maker: str, task: tuple[str, str, str, int], claimed: tuple[str, str, str, int]
) -> None:
    made = TaskIdentity(maker, *task)
    batch = Batch(id="b", metadata=made.metadata(made.key("input")))
    assert is_of(batch, here) is (here == maker)
    assert is_of(batch, maker)
    liar = TaskIdentity(maker, *claimed).metadata(made.key("input"))
    assert is_of(Batch(id="b", metadata=liar), maker) is (claimed == task)


# -- the audit log -------------------------------------------------------------------------------------------


def last_entry() -> Log:
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(Log).where(Log.event == "cancel_openai_batch").order_by(Log.id.desc())
        entry: Log | None = session.scalars(query).first()
        assert entry is not None
        session.expunge(entry)
    return entry


def task_in(entry: Log) -> tuple[Any, ...]:
    return entry.dag_id, entry.run_id, entry.task_id, entry.map_index


@pytest.mark.parametrize("metadata", [OWN, STAGING, {}], ids=["own", "of another deployment", "of no task"])
def test_the_audit_log_names_the_task(login: Login, server: DevServer, metadata: dict[str, str]) -> None:
    """Who cancelled which batch; and the task, so that it is found under its DAG, if that is proven."""
    batch_id = create(server, metadata=metadata)
    assert cancel(login("admin"), batch_id).status_code == 200
    entry = last_entry()
    assert (entry.owner, entry.owner_display_name) == ("admin", "admin")
    assert json.loads(entry.extra or "") == {**CONN, "batch_id": batch_id, "method": "POST"}
    assert task_in(entry) == (TASK if metadata == OWN else (None,) * 4)


def test_the_request_does_not_say_what_the_audit_log_names(login: Login, server: DevServer) -> None:
    """A user could otherwise put a cancel under a DAG that has nothing to do with it."""
    lies: dict[str, str] = {"dag_id": "theirs", "run_id": "r", "task_id": "t"}
    batch_id = create(server)
    assert cancel(login("admin"), batch_id, params={**CONN, **lies}, json=lies).status_code == 200
    assert task_in(last_entry()) == (None,) * 4


def test_a_cancel_whose_answer_is_lost_is_in_the_audit_log(login: Login, server: DevServer) -> None:
    """The batch may well be cancelled."""
    batch_id = create(server, metadata=OWN)
    server.faults([{"operation": "cancel_batch", "action": "drop_after", "times": None}])
    assert cancel(login("user"), batch_id).status_code == 502
    assert status_of(server, batch_id) != "validating"
    assert batch_id in (last_entry().extra or "")


def test_ids_that_are_too_long_for_the_audit_log_are_cut(login: Login, server: DevServer) -> None:
    """Its columns hold 250 characters, metadata 512."""
    batch_id = create(server, metadata=made_by("mine", "r" * 512, "ask"))
    assert cancel(login("user"), batch_id).status_code == 200
    assert task_in(last_entry()) == ("mine", "r" * 250, "ask", -1)


# -- hostile metadata ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["9" * 5_000, "9" * 10, "-7", "\u0662"])
def test_no_map_index_breaks_the_list(login: Login, server: DevServer, index: str) -> None:
    """Python reads no number of 5,000 digits; the other batches are shown all the same."""
    own = create(server, metadata=OWN)
    odd = create(server, metadata=OWN)
    server.force(odd, metadata={**OWN, "airflow_map_index": index})
    answer = login("admin").get(BASE, params=CONN)
    assert answer.status_code == 200
    shown = {row["id"]: row for row in answer.json()["batches"]}
    assert shown[own]["origin"]["map_index"] == 2
    assert (shown[odd]["origin"]["map_index"], shown[odd]["dag_known"]) == (-1, False)
    assert login("admin").get(f"{BASE}/{odd}", params=CONN).status_code == 200


def test_the_scene_is_of_the_deployment_of_the_tests() -> None:
    """Otherwise the other tests of rights would prove nothing."""
    assert is_of(Batch(id="b", metadata=OWN), DEPLOYMENT)
    assert Origin.of(Batch(id="b", metadata=OWN)) == Origin(*TASK)
