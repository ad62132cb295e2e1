"""Every answer, and every list of allowed values, against OpenAI's own OpenAPI document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from devserver_api import as_object
from jsonschema import Draft202012Validator

from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS
from airflow_provider_openai_batches.devserver.limits import MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS
from airflow_provider_openai_batches.devserver.params import PURPOSES
from airflow_provider_openai_batches.devserver.statuses import is_over

if TYPE_CHECKING:
    from devserver_api import Api

    from airflow_provider_openai_batches.devserver import DevServer

DOCUMENT = json.loads((Path(__file__).parents[1] / "openapi" / "openai-batch-openapi.json").read_text())


def without_nulls(value: Any) -> Any:
    """The document does not mark the optional fields of a batch as nullable; the service sends null."""
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def check(answer: httpx.Response, schema: str) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    reference = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    Draft202012Validator(reference).validate(without_nulls(answer.json()))
    return as_object(answer)


def test_values() -> None:
    """The server knows the endpoints, purposes, statuses and limits of the document."""

    def values(schema: str, name: str) -> list[str]:
        return list(DOCUMENT["components"]["schemas"][schema]["properties"][name]["enum"])

    assert values("CreateBatchRequest", "endpoint") == list(ENDPOINTS)
    assert values("CreateFileRequest", "purpose") == list(PURPOSES)
    under_way = {"validating", "in_progress", "finalizing", "cancelling"}
    assert {status for status in values("Batch", "status") if not is_over(status)} == under_way
    seconds = DOCUMENT["components"]["schemas"]["BatchFileExpirationAfter"]["properties"]["seconds"]
    limits = (MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS)
    assert (seconds["minimum"], seconds["maximum"]) == limits


def test_files(api: Api) -> None:
    """Upload, retrieve, list and delete answer with the documented objects."""
    answer = api.http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}\n")})
    file = check(answer, "OpenAIFile")
    assert (file["bytes"], file["filename"], file["purpose"]) == (3, "in.jsonl", "batch")
    assert check(api.http.get(f"/files/{file['id']}"), "OpenAIFile") == file
    assert check(api.http.get("/files"), "ListFilesResponse")["data"] == [file]
    check(api.http.delete(f"/files/{file['id']}"), "DeleteFileResponse")
    assert api.http.get(f"/files/{file['id']}").status_code == 404


@pytest.mark.parametrize("ending", ["completed", "failed", "expired", "cancelled"])
def test_batches(server: DevServer, api: Api, ending: str) -> None:
    """Create, retrieve, list and cancel answer with the documented object, however the batch ends."""
    server.settings(batch_seconds=60)
    file_id = api.upload([api.line("a"), api.line("b", quirk="fail:400")])["id"]
    batch = check(api.http.post("/batches", json=api.params(file_id, metadata={"k": "v"})), "Batch")
    assert (batch["status"], batch["metadata"]) == ("validating", {"k": "v"})
    assert batch["output_file_id"] is None
    if ending == "cancelled":
        assert check(api.http.post(f"/batches/{batch['id']}/cancel"), "Batch")["status"] == "cancelling"
    server.force(batch["id"], status=ending)
    seen = check(api.http.get(f"/batches/{batch['id']}"), "Batch")
    assert seen["status"] == ending
    assert seen[f"{ending}_at"] >= seen["created_at"]
    page = check(api.http.get("/batches"), "ListBatchesResponse")
    assert page["data"] == [seen]
    assert page["first_id"] == page["last_id"] == batch["id"]


def test_prefixes(server: DevServer, api: Api) -> None:
    """The same routes answer under the prefixes of Azure, and take its header for the key."""
    batch = api.create([api.line()])
    root = server.base_url.removesuffix("/v1")
    for prefix in ("/v1", "/openai/v1", "/openai"):
        answer = httpx.get(f"{root}{prefix}/batches/{batch['id']}?api-version=1", headers={"api-key": "k"})
        assert check(answer, "Batch")["id"] == batch["id"]
    assert httpx.get(f"{root}/batches", headers={"api-key": "k"}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("PUT", "/batches"), ("GET", "/batches/a/b/c"), ("GET", "/")]
)
def test_unknown_urls(api: Api, method: str, path: str) -> None:
    """An unknown URL is answered with an error in the usual shape."""
    answer = api.http.request(method, path)
    assert answer.status_code in (404, 405)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/files/file-x"),
        ("GET", "/files/file-x/content"),
        ("DELETE", "/files/file-x"),
        ("GET", "/batches/batch_x"),
        ("POST", "/batches/batch_x/cancel"),
    ],
)
def test_unknown_ids(api: Api, method: str, path: str) -> None:
    """An unknown id is a 404 that names it."""
    answer = api.http.request(method, path)
    assert answer.status_code == 404
    assert path.split("/")[2] in answer.json()["error"]["message"]


def test_keys(server: DevServer, api: Api) -> None:
    """Any key is accepted until some are set. A 401 does not quote the wrong key."""
    assert httpx.get(f"{server.base_url}/batches").status_code == 401
    assert httpx.get(f"{server.base_url}/batches", headers={"authorization": "Bearer"}).status_code == 401
    assert api.http.get("/batches").status_code == 200
    server.settings(api_keys=["right"])
    answer = api.http.get("/batches", headers={"authorization": "Bearer wrong-key"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "wrong-key" not in answer.text
    assert api.http.get("/batches", headers={"authorization": "Bearer right"}).status_code == 200
    assert json.loads(*server.environment.values())["password"] == "right"


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/batches/", 404, None),
        ("POST", "/files/", 404, None),
        ("PUT", "/batches", 405, "GET, POST"),
        ("PUT", "/files/file-x", 405, "DELETE, GET"),
        ("DELETE", "/batches/b/cancel", 405, "POST"),
    ],
)
@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1", "/openai"])
def test_a_url_that_is_refused_is_named_whole(  # noqa: PLR0917 - a table
    server: DevServer, prefix: str, method: str, path: str, status: int, allowed: str | None
) -> None:
    """With its prefix; a slash too many leads nowhere else, and a wrong method is told the right ones."""
    root = server.base_url.removesuffix("/v1")
    answer = httpx.request(method, f"{root}{prefix}{path}", headers={"api-key": "k"})
    assert (answer.status_code, answer.headers.get("allow")) == (status, allowed)
    assert f"({method} {prefix}{path})" in answer.json()["error"]["message"]


def test_a_url_that_is_refused_is_no_call_of_an_operation(server: DevServer, api: Api) -> None:
    """It is counted as unknown, and no fault of an operation meets it."""
    server.faults([{"operation": "list_batches", "action": "status", "status": 503}])
    assert api.http.get("/batches/").status_code == 404
    assert server.stats()["requests"] == {"unknown": 1}


def test_a_failure_of_the_server_has_the_usual_shape(
    server: DevServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.service, "list_batches", lambda *_: 1 / 0)
    answer = api.http.get("/batches")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")


def test_an_expiry_as_one_part(api: Api) -> None:
    """Some clients send the object as JSON."""
    file = api.upload(b"x", expires_after='{"anchor": "created_at", "seconds": 3600}')
    assert file["expires_at"] - file["created_at"] == 3_600
    for text, param in (
        ('{"anchor": "created_at", "seconds": 5}', "expires_after.seconds"),
        ("{}", "expires_after.anchor"),
        ("[1]", "expires_after"),
        ("soon", "expires_after"),
    ):
        answer = api.http.post(
            "/files", data={"purpose": "batch", "expires_after": text}, files={"file": ("f", b"x")}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"host": "evil.example"}, True),
        ({"host": "127.0.0.1.evil.example"}, True),
        ({"host": "[::1"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"host": "localhost:8089"}, False),
        ({"host": "[::1]:8089"}, False),
        ({"origin": "http://127.0.0.1:9"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/batches", "/_dev/stats"])
def test_another_sites_page(server: DevServer, path: str, headers: dict[str, str], is_refused: bool) -> None:
    """Neither a page of another site nor a name that was pointed at this machine uses the server."""
    root = server.base_url.removesuffix("/v1")
    answer = httpx.get(root + path, headers={"api-key": "k", **headers})
    assert answer.status_code == (403 if is_refused else 200)
