"""Handles every request before its route does: prefixes, keys, counts, latency, faults, request ids."""

from __future__ import annotations

import asyncio
import re
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS
from airflow_provider_openai_batches.devserver.errors import error_body
from airflow_provider_openai_batches.devserver.faults import FaultyCall

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from airflow_provider_openai_batches.devserver.service import BatchService
    from airflow_provider_openai_batches.devserver.tally import Tally

PREFIXES = ("/openai/v1/", "/openai/", "/v1/")
CONTROL = "/_dev/"
LOOPBACK = ("127.", "::1", "::ffff:127.")
# Each key is the method, the collection, and the rest of the path, in which ID stands for an id.
OPERATIONS = {
    ("POST", "batches", ""): "create_batch",
    ("GET", "batches", ""): "list_batches",
    ("GET", "batches", "ID"): "retrieve_batch",
    ("POST", "batches", "ID/cancel"): "cancel_batch",
    ("POST", "files", ""): "upload_file",
    ("GET", "files", ""): "list_files",
    ("GET", "files", "ID"): "retrieve_file",
    ("DELETE", "files", "ID"): "delete_file",
    ("GET", "files", "ID/content"): "download_file",
}


def operation(method: str, path: str) -> str:
    """
    The name of the call, for faults and counts.

    :param path: without its prefix.
    """
    if path.endswith("/"):
        return "unknown"
    if method == "POST" and f"/v1{path}" in ENDPOINTS:
        return "live"
    collection, _, rest = path[1:].partition("/")
    item, slash, verb = rest.partition("/")
    return OPERATIONS.get((method, collection, "ID" * bool(item) + slash + verb), "unknown")


_LOOPBACK_NAME = re.compile(r"127(\.\d{1,3}){3}|::1")
# The key in the scope for the path as the client wrote it, with its prefix.
ASKED_PATH = "devserver.asked_path"


def _is_foreign(scope: Scope) -> bool:
    """Whether a browser sends this for another site's page, or for a name that leads here by a trick."""
    headers = dict(scope["headers"])
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    if origin is not None and not _is_local(origin):
        return True
    return scope["server"][0].startswith(LOOPBACK) and not _is_local(b"//" + host)


def _is_local(url: bytes) -> bool:
    try:
        name = urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return False
    return name == "localhost" or bool(_LOOPBACK_NAME.fullmatch(name))


class Gateway:
    def __init__(self, app: ASGIApp, service: BatchService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_foreign(scope):
            text = "Another site's page may not use the dev server. Use its own address, such as 127.0.0.1."
            return await refuse(send, HTTPStatus.FORBIDDEN, text)
        path = scope["path"]
        if path.startswith(CONTROL):
            if not scope["client"][0].startswith(LOOPBACK):
                text = "The control routes can only be used from the server's own machine."
                return await refuse(send, HTTPStatus.FORBIDDEN, text)
            return await self._app(scope, receive, send)
        prefix = next((prefix for prefix in PREFIXES if path.startswith(prefix)), None)
        if prefix is None:
            text = f"Invalid URL ({scope['method']} {path})"
            return await refuse(send, HTTPStatus.NOT_FOUND, text, code="unknown_url")
        asked, path = path, path[len(prefix) - 1 :]
        scope = {**scope, "path": path, "raw_path": path.encode(), ASKED_PATH: asked}
        name = operation(scope["method"], path)
        reply = _Reply(send, self._service.tally)
        self._service.tally.begin(name)
        try:
            await self._serve(name, scope, receive, reply)
        except asyncio.CancelledError:
            return None  # the server is stopping, and has already cut its connections
        finally:
            reply.end()
        return None

    async def _serve(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._service.settings.latency:
            await asyncio.sleep(self._service.settings.latency)
        rule = self._service.faults.pick(name, scope["path"])
        if rule is None:
            await self._authorized(scope, receive, send)
        else:
            await FaultyCall(self._authorized, scope, receive, send).apply(rule)

    async def _authorized(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"api-key", b"")
        known = self._service.settings.api_keys
        if not key.strip():
            text = "You didn't provide an API key. Send it as a bearer token in the Authorization header."
            return await refuse(send, HTTPStatus.UNAUTHORIZED, text)
        if known and key.strip().decode("utf-8", "replace") not in known:
            text = "Incorrect API key provided."
            return await refuse(send, HTTPStatus.UNAUTHORIZED, text, code="invalid_api_key")
        return await self._app(scope, receive, send)


class _Reply:
    """Gives an answer its request id, and counts the call as ended before its last byte is sent."""

    def __init__(self, send: Send, tally: Tally) -> None:
        self._send = send
        self._tally = tally
        self._ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            request_id = (b"x-request-id", f"req_{secrets.token_hex(16)}".encode())
            message = {**message, "headers": [*message["headers"], request_id]}
        elif not message.get("more_body"):
            self.end()
        await self._send(message)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._tally.end()


async def refuse(send: Send, status: int, message: str, *, code: str | None = None) -> None:
    """Answer with an error."""
    body = msgspec.json.encode(error_body(status, message, code=code))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
