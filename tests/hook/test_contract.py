"""Everything that the clients send is what OpenAI's own OpenAPI document describes."""

from __future__ import annotations

import asyncio
import email
import io
import json
import re
import threading
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema
import pytest
from support import ENDPOINT, request_lines

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENT = json.loads((Path(__file__).parent.parent / "openapi" / "openai-batch-openapi.json").read_text())


class Sent(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Recorder(BaseHTTPRequestHandler):
    """Keeps each request, and answers everything with an object that has the id which was asked for."""

    sent: ClassVar[list[Sent]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.sent.append(Sent(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
        parts = url.path.removeprefix("/v1").split("/")
        asked_for = unquote(parts[2]) if len(parts) > 2 else "x"
        found = {"id": asked_for, "status": "completed", "data": [], "has_more": False}
        answer = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sent]]:
    class OneRecorder(Recorder):
        sent: ClassVar[list[Sent]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), OneRecorder) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {
            "conn_type": "openai_batches",
            "host": f"http://127.0.0.1:{server.server_port}/v1",
            "password": "sk-key",
            "extra": {"organization": "org-1", "project": "proj-1"},
        }
        monkeypatch.setenv("AIRFLOW_CONN_RECORDED", json.dumps(connection))
        yield OneRecorder.sent
        server.shutdown()


@pytest.fixture
def hook(sent: list[Sent]) -> Iterator[OpenAIBatchesHook]:
    hook = OpenAIBatchesHook("recorded")
    yield hook
    hook.close()


def operation_of(request: Sent) -> dict[str, Any]:
    """Return the document's entry for a request; fail if there is none."""
    path = request.path.removeprefix("/v1")
    for template, methods in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and request.method.lower() in methods:
            found: dict[str, Any] = methods[request.method.lower()]
            return found
    raise AssertionError(f"{request.method} {request.path} is not in the document")


def check(request: Sent, operation_id: str) -> None:
    operation = operation_of(request)
    assert operation["operationId"] == operation_id
    assert request.headers["authorization"] == "Bearer sk-key"
    assert request.headers["openai-organization"] == "org-1"
    assert request.headers["openai-project"] == "proj-1"
    queries = {
        item["name"]: item["schema"] for item in operation.get("parameters", []) if item["in"] == "query"
    }
    for name, text in request.query.items():
        jsonschema.validate(int(text) if queries[name]["type"] == "integer" else text, queries[name])
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        assert request.body == b""
        return
    kind, described = next(iter(content.items()))
    assert request.headers["content-type"].split(";")[0] == kind
    instance = json.loads(request.body) if kind == "application/json" else form(request)
    jsonschema.validate(instance, {**described["schema"], "components": DOCUMENT["components"]})


def form(request: Sent) -> dict[str, Any]:
    """A multipart body as the object that the document describes."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message: Any = email.message_from_bytes(head + request.body, policy=HTTP)
    fields: dict[str, Any] = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")
        value = part.get_payload(decode=True).decode()
        outer, _, inner = name.partition("[")
        if inner:
            value = int(value) if value.isdigit() else value
            fields.setdefault(outer, {})[inner.rstrip("]")] = value
        else:
            fields[name] = value
    return fields


@pytest.mark.parametrize(
    "endpoint",
    DOCUMENT["components"]["schemas"]["CreateBatchRequest"]["properties"]["endpoint"]["enum"],
)
def test_create_for_every_endpoint(hook: OpenAIBatchesHook, sent: list[Sent], endpoint: str) -> None:
    """Each endpoint of the document is taken, with all parameters."""
    hook.create_batch("file-1", endpoint, "24h", {"a": "b"}, 3600)
    check(sent[0], "createBatch")
    body = json.loads(sent[0].body)
    assert body["output_expires_after"] == {"anchor": "created_at", "seconds": 3600}
    assert body["metadata"]["a"] == "b"


def test_every_operation_of_the_hook(hook: OpenAIBatchesHook, sent: list[Sent]) -> None:
    """Each call is in the document, with its parameters and nothing else."""
    calls: list[tuple[str, Callable[[], object]]] = [
        ("createBatch", lambda: hook.create_batch("file-1", ENDPOINT)),
        ("retrieveBatch", lambda: hook.retrieve_batch("batch_1")),
        ("listBatches", lambda: hook.list_batches(after="batch_1", limit=100)),
        ("listBatches", lambda: list(hook.iter_batches())),
        ("cancelBatch", lambda: hook.cancel_batch("batch_1")),
        ("createFile", lambda: hook.upload_file(io.BytesIO(request_lines()), 'a"b.jsonl', 7200)),
        ("createFile", lambda: hook.upload_file(io.BytesIO(request_lines()))),
        ("retrieveFile", lambda: hook.retrieve_file("file-1")),
        ("listFiles", lambda: list(hook.iter_files())),
        ("downloadFile", lambda: hook.download_file("file-1", io.BytesIO())),
        ("deleteFile", lambda: hook.delete_file("file-1")),
    ]
    for operation_id, call in calls:
        sent.clear()
        call()
        check(sent[0], operation_id)
    called = {operation_id for operation_id, _ in calls}
    described = {
        operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()
    }
    assert called == described


def test_an_uploads_content_arrives_as_it_is(hook: OpenAIBatchesHook, sent: list[Sent]) -> None:
    """Between the boundaries lies the file, byte for byte."""
    content = b'{"custom_id": "\xc3\xa4"}\r\n--not-a-boundary\r\n'
    hook.upload_file(io.BytesIO(content), "in.jsonl")
    assert form(sent[0])["file"].encode() == content
    assert int(sent[0].headers["content-length"]) == len(sent[0].body)


def test_every_operation_of_the_triggerers_client(hook: OpenAIBatchesHook, sent: list[Sent]) -> None:
    """Both clients send the same."""

    async def calls() -> None:
        client = AsyncBatchesClient(hook.config)
        await client.retrieve_batch("batch_1")
        await client.list_batches("batch_1", 100)
        await client.cancel_batch("batch_1")
        await client.aclose()

    asyncio.run(calls())
    for request, operation_id in zip(sent, ("retrieveBatch", "listBatches", "cancelBatch"), strict=True):
        check(request, operation_id)


def test_an_odd_id_stays_one_part_of_the_path(hook: OpenAIBatchesHook, sent: list[Sent]) -> None:
    """Percent signs and question marks are quoted."""
    hook.retrieve_batch("a?b=c#d%2F..;é")
    assert sent[0].path == "/v1/batches/a%3Fb%3Dc%23d%252F..%3B%C3%A9"
    assert sent[0].query == {}
