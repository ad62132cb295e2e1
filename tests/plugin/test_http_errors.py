"""Whatever goes wrong, the routes answer with a fitting status and a sentence, and never with a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from scene import create, made_by

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from airflow_provider_openai_batches.devserver import DevServer

    Login = Callable[[str], httpx.Client]
    Connection = Callable[..., str]

BASE = "/openai-batches/api"
CONN = {"conn_id": "openai_batches_default"}
KEY = "sk-secret-1234567890"
NO_MONEY = {"error": {"message": "Pay first", "code": "insufficient_quota"}}


def sentence(answer: Any) -> str:
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert "Traceback" not in detail
    assert KEY not in answer.text
    return detail


@pytest.fixture
def viewer(login: Login) -> httpx.Client:
    return login("viewer")


def test_unknown_connection(viewer: httpx.Client) -> None:
    """404, and what to do."""
    answer = viewer.get(f"{BASE}/batches", params={"conn_id": "nope"})
    assert answer.status_code == 404
    assert "no connection 'nope'" in sentence(answer)


def test_a_connection_of_another_type_is_unknown(viewer: httpx.Client, connection: Connection) -> None:
    """The page says nothing about connections that are not for it."""
    connection("warehouse", conn_type="postgres", host="db.internal")
    answer = viewer.get(f"{BASE}/batches", params={"conn_id": "warehouse"})
    assert answer.status_code == 404
    assert "db.internal" not in answer.text


def test_a_connection_without_key(viewer: httpx.Client, connection: Connection) -> None:
    """422, and where to see what is wrong."""
    connection("empty", password="", host="https://api.example/v1")
    answer = viewer.get(f"{BASE}/batches", params={"conn_id": "empty"})
    assert answer.status_code == 422
    assert "press Test" in sentence(answer)


def test_the_settings_of_a_connection_stay_secret(viewer: httpx.Client, connection: Connection) -> None:
    """An error message may quote a bad setting; it stays on the server."""
    connection("odd", host="http://inside.example", extra={"timeout": "sesame"})
    answer = viewer.get(f"{BASE}/batches", params={"conn_id": "odd"})
    assert answer.status_code == 422
    assert "sesame" not in sentence(answer)
    assert "inside.example" not in answer.text


def test_a_wrong_key(viewer: httpx.Client, server: DevServer, connection: Connection) -> None:
    """502: the service refuses the key; neither the key nor the service's words about it are passed on."""
    server.settings(api_keys=["the-right-one"])
    connection("wrong", host=server.base_url)
    answer = viewer.get(f"{BASE}/batches", params={"conn_id": "wrong"})
    assert answer.status_code == 502
    assert "refuses the API key of connection 'wrong'" in sentence(answer)


def test_the_service_repeats_a_secret(
    viewer: httpx.Client, server: DevServer, connection: Connection
) -> None:
    """Keys, headers and parameters of the connection are removed from the service's message."""
    connection(
        "chatty",
        host=server.base_url,
        extra={"organization": "org-hidden", "headers": {"X-Team": "team-7"}, "params": {"tenant": "t-17"}},
    )
    body = {"error": {"message": f"No org-hidden for {KEY} of team-7 at t-17"}}
    server.faults(
        [{"operation": "list_batches", "action": "status", "status": 418, "body": body, "times": None}]
    )
    answer = viewer.get(f"{BASE}/batches", params={"conn_id": "chatty"})
    assert answer.status_code == 502
    assert "No *** for *** of *** at ***" in sentence(answer)


def test_a_dead_service(viewer: httpx.Client, server: DevServer) -> None:
    """503 while the host refuses connections, and the list as soon as it is back."""
    server.stop()
    answer = viewer.get(f"{BASE}/batches", params=CONN)
    assert answer.status_code == 503
    assert "cannot be reached" in sentence(answer)
    server.start()
    assert viewer.get(f"{BASE}/batches", params=CONN).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ({"action": "status", "status": 503}, 503, "busy or down"),
        ({"action": "status", "status": 429}, 503, "busy or down"),
        ({"action": "status", "status": 429, "body": NO_MONEY}, 502, "says: HTTP 429: Pay first"),
        ({"action": "status", "status": 404}, 502, "no Batch API at that address"),
        ({"action": "drop_before"}, 502, "did not answer as a Batch API does"),
        ({"action": "half_body"}, 502, "did not answer as a Batch API does"),
        ({"action": "invalid_json"}, 502, "did not answer as a Batch API does"),
    ],
)
def test_a_service_that_fails(
    viewer: httpx.Client, server: DevServer, fault: dict[str, Any], status: int, words: str
) -> None:
    """Each kind of bad answer has its own status and sentence."""
    server.faults([{"operation": "list_batches", "times": None, **fault}])
    answer = viewer.get(f"{BASE}/batches", params=CONN)
    assert answer.status_code == status
    assert words in sentence(answer)


@pytest.mark.parametrize("after", ["batch_unknown", "../../etc", "a b", "\u202e"])
def test_a_broken_cursor(viewer: httpx.Client, after: str) -> None:
    """400, whether the service or this package refuses it."""
    answer = viewer.get(f"{BASE}/batches", params={**CONN, "after": after})
    assert answer.status_code == 400
    sentence(answer)


def test_an_unknown_batch(login: Login) -> None:
    """404 for its details and for its cancel."""
    client = login("admin")
    shown = client.get(f"{BASE}/batches/batch_unknown", params=CONN)
    cancelled = client.post(f"{BASE}/batches/batch_unknown/cancel", params=CONN, json={})
    assert shown.status_code == cancelled.status_code == 404
    assert "does not know this batch" in sentence(shown)


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled", "cancelling"])
def test_a_cancel_of_what_is_over(login: Login, server: DevServer, status: str) -> None:
    """409, and nothing is sent to the service."""
    batch_id = create(server, metadata=made_by("mine", "run_1", "ask"))
    server.force(batch_id, status=status, stuck=True)
    answer = login("admin").post(f"{BASE}/batches/{batch_id}/cancel", params=CONN, json={})
    assert answer.status_code == 409
    assert f"is {status}" in sentence(answer)
    assert server.stats()["requests"].get("cancel_batch", 0) == 0


def test_no_connection_named(viewer: httpx.Client) -> None:
    """422, with a sentence instead of FastAPI's list."""
    answer = viewer.get(f"{BASE}/batches")
    assert answer.status_code == 422
    assert "conn_id" in sentence(answer)


def test_hostile_metadata_passes_as_text(login: Login, server: DevServer) -> None:
    """Markup in metadata reaches the browser unchanged, and the browser shows it as text."""
    evil = "<script>alert(1)</script>\"'\u202e"
    metadata = {**made_by(evil, evil, evil), "airflow_map_index": "not a number"}
    create(server, metadata=metadata)
    answer = login("admin").get(f"{BASE}/batches", params=CONN)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["batches"][0]["origin"] == {
        "dag_id": evil,
        "run_id": evil,
        "task_id": evil,
        "map_index": -1,
    }
