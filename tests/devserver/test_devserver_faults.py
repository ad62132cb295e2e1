"""Each fault, as a client sees it on the wire, and what the server has done by then."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from devserver_api import Api

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.fixture
def params(api: Api) -> dict[str, Any]:
    return api.params(api.upload([api.line()])["id"])


def wire(server: DevServer, request: str) -> bytes:
    """The bytes that come back until the server closes the connection."""
    url = httpx.URL(server.base_url)
    received = b""
    with socket.create_connection((url.host, url.port), timeout=5) as connection:
        connection.sendall(request.encode())
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                received += piece
    return received


def post_batch(server: DevServer, params: dict[str, Any]) -> bytes:
    body = json.dumps(params)
    head = "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
    return wire(server, f"{head}Content-Length: {len(body)}\r\n\r\n{body}")


def test_status(server: DevServer, api: Api, params: dict[str, Any]) -> None:
    """The status that was asked for, in the service's error shape; the call is not carried out."""
    server.faults([{"operation": "create_batch", "action": "status", "status": 503}])
    answer = api.http.post("/batches", json=params)
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"
    assert server.stats()["batches"]["stored"] == 0
    assert api.http.post("/batches", json=params).status_code == 200


def test_status_with_headers_and_body(server: DevServer, api: Api) -> None:
    """A 429 with its header and code, and a page of HTML from a proxy."""
    server.faults(
        [
            {
                "operation": "list_batches",
                "action": "status",
                "status": 429,
                "headers": {"Retry-After": "7"},
                "code": "insufficient_quota",
            },
            {"operation": "list_batches", "action": "status", "status": 502, "body": "<h1>Bad Gateway</h1>"},
            {"operation": "*", "action": "status", "status": 422, "body": {"detail": "x"}},
        ]
    )
    first, second, third, last = (api.http.get("/batches") for _ in range(4))
    assert (first.status_code, first.headers["retry-after"]) == (429, "7")
    assert first.json()["error"]["code"] == "insufficient_quota"
    assert (second.status_code, second.headers["content-type"]) == (502, "text/html")
    assert second.text == "<h1>Bad Gateway</h1>"
    assert (third.status_code, third.json()) == (422, {"detail": "x"})
    assert last.status_code == 200


def test_status_after(server: DevServer, api: Api, params: dict[str, Any]) -> None:
    """With after, the call is carried out before the error is sent."""
    server.faults([{"operation": "create_batch", "action": "status", "status": 500, "after": True}])
    assert api.http.post("/batches", json=params).status_code == 500
    assert server.stats()["batches"]["stored"] == 1


@pytest.mark.parametrize(("action", "stored"), [("drop_before", 0), ("drop_after", 1)])
def test_drop(server: DevServer, params: dict[str, Any], action: str, stored: int) -> None:
    """The connection is closed without a byte, before or after the batch is stored."""
    server.faults([{"operation": "create_batch", "action": action}])
    assert post_batch(server, params) == b""
    assert server.stats()["batches"]["stored"] == stored
    assert server.stats()["faults_fired"] == 1


def test_drop_during(server: DevServer, params: dict[str, Any]) -> None:
    """Half of the answer is sent, with the length of the whole."""
    server.faults([{"operation": "create_batch", "action": "drop_during"}])
    head, _, body = post_batch(server, params).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    announced = next(line for line in head.splitlines() if line.startswith(b"content-length"))
    assert len(body) == int(announced.split()[1]) // 2 > 0
    assert server.stats()["batches"]["stored"] == 1


def test_drop_as_httpx_sees_it(server: DevServer, api: Api, params: dict[str, Any]) -> None:
    """A client library reports the lost connection, and can open a new one."""
    server.faults(
        [{"operation": "create_batch", "action": action} for action in ("drop_after", "drop_during")]
    )
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            api.http.post("/batches", json=params)
    assert len(api.http.get("/batches").json()["data"]) == 2


def test_drop_of_an_upload(server: DevServer, api: Api) -> None:
    """An upload can be cut off before it is read."""
    server.faults([{"operation": "upload_file", "action": "drop_before"}])
    with pytest.raises(httpx.TransportError):
        api.upload(b"x" * 1_000_000)
    assert server.stats()["files"] == 0


def test_delay(server: DevServer, api: Api) -> None:
    """The right answer is sent later."""
    server.faults([{"operation": "list_batches", "action": "delay", "seconds": 0.2}])
    began = time.monotonic()
    assert api.http.get("/batches").json()["data"] == []
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("action", ["half_body", "invalid_json"])
def test_bodies_that_are_not_json(server: DevServer, api: Api, action: str) -> None:
    """A complete HTTP answer whose body is not JSON."""
    server.faults([{"operation": "list_batches", "action": action}])
    answer = api.http.get("/batches")
    assert answer.status_code == 200
    assert len(answer.content) == int(answer.headers["content-length"]) > 0
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_downloads(server: DevServer, api: Api) -> None:
    """A download can break off, ignore the range, or have other bytes."""
    content = bytes(range(256)) * 10_000
    file_id = api.upload(content)["id"]
    path = f"/files/{file_id}/content"
    server.faults(
        [
            {"operation": "download_file", "action": "cut_download", "bytes": 1_000_000},
            {"operation": "download_file", "action": "ignore_range"},
            {"operation": "download_file", "action": "wrong_content"},
        ]
    )
    pieces: list[bytes] = []
    with api.http.stream("GET", path) as answer, pytest.raises(httpx.RemoteProtocolError):
        pieces.extend(answer.iter_raw())
    assert b"".join(pieces) == content[:1_000_000]
    answer = api.http.get(path, headers={"range": "bytes=1000000-"})
    assert (answer.status_code, answer.content) == (200, content)
    answer = api.http.get(path)
    assert answer.content != content
    assert len(answer.content) == len(content)
    answer = api.http.get(path, headers={"range": "bytes=1000000-"})
    assert (answer.status_code, answer.content) == (206, content[1_000_000:])


def test_cut_at_zero(server: DevServer, api: Api) -> None:
    """A download can be cut after its headers."""
    path = f"/files/{api.upload(b'x' * 100)['id']}/content"
    server.faults([{"operation": "download_file", "action": "cut_download"}])
    with pytest.raises(httpx.RemoteProtocolError):
        api.http.get(path)


def test_which_calls(server: DevServer, api: Api) -> None:
    """Rules count and skip calls, and can be restricted to a path or a probability."""
    batch = api.create([api.line()])
    server.faults(
        [
            {"operation": "retrieve_batch", "action": "status", "skip": 1, "times": 2},
            {"operation": "retrieve_batch", "action": "status", "status": 404, "path": "batch_other"},
        ]
    )
    assert [api.http.get(f"/batches/{batch['id']}").status_code for _ in range(4)] == [200, 503, 503, 200]
    server.clear_faults()
    server.faults([{"operation": "*", "action": "status", "times": None, "probability": 0.5}])
    statuses = {api.http.get("/batches").status_code for _ in range(30)}
    assert statuses == {200, 503}
    server.clear_faults()
    assert {api.http.get("/batches").status_code for _ in range(5)} == {200}


@pytest.mark.parametrize(
    "rule", [{}, {"operation": "x", "action": "delay"}, {"operation": "*", "action": "x"}, {"oops": 1}]
)
def test_invalid_rules(server: DevServer, rule: dict[str, Any]) -> None:
    """An invalid rule is refused."""
    answer = httpx.post(server.base_url.removesuffix("/v1") + "/_dev/faults", json=[rule])
    assert answer.status_code == 400
