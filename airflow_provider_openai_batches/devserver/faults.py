"""Faults that a test asks for: which calls go wrong, how, and how often. The package docstring lists them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from airflow_provider_openai_batches.devserver.errors import ApiError, error_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Action = Literal[
    "status",
    "drop_before",
    "drop_after",
    "drop_during",
    "delay",
    "half_body",
    "invalid_json",
    "cut_download",
    "ignore_range",
    "wrong_content",
]
Operation = Literal[
    "create_batch",
    "retrieve_batch",
    "list_batches",
    "cancel_batch",
    "upload_file",
    "retrieve_file",
    "list_files",
    "delete_file",
    "download_file",
    "live",
    "*",
]


class FaultRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """
    :param times: how many calls it applies to; None means all of them.
    :param skip: how many matching calls to let pass first.
    :param path: the rule applies only to calls with this in their path.
    :param after: for ``status``: carry out the call first.
    :param seconds: for ``delay``: how long to wait before the call is carried out.
    :param bytes: for ``cut_download``: how many bytes of the file are sent.
    """

    operation: Operation
    action: Action
    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    path: str = ""
    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    code: str | None = None
    body: Any = None
    headers: dict[str, str] = {}
    content_type: str | None = None
    after: bool = False
    seconds: float = 0.0
    bytes: int = 0


class Faults:
    """The rules in force. If several match a call, the first one applies."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.clear()

    def add(self, rules: list[dict[str, Any]]) -> int:
        """
        :returns: how many rules are in force.
        :raises ApiError: 400 if a rule is invalid.
        """
        try:
            self.rules += msgspec.convert(rules, list[FaultRule])
        except msgspec.ValidationError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"Invalid fault: {error}") from None
        return len(self.rules)

    def clear(self) -> None:
        self.rules: list[FaultRule] = []
        self.fired = 0
        self._random = Random(self._seed)

    def pick(self, operation: str, path: str) -> FaultRule | None:
        for rule in self.rules:
            if rule.operation not in ("*", operation) or rule.path not in path or rule.times == 0:
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.probability < 1 and self._random.random() >= rule.probability:
                continue
            if rule.times is not None:
                rule.times -= 1
            self.fired += 1
            return rule
        return None


class FaultyCall:
    """A call to which a fault rule applies."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._transport: asyncio.Transport = scope["devserver.transport"]

    async def apply(self, rule: FaultRule) -> None:
        actions: dict[str, Callable[[FaultRule], Awaitable[None]]] = {
            "status": self._status,
            "drop_before": self._drop_before,
            "drop_after": self._drop_after,
            "drop_during": self._drop_during,
            "delay": self._delay,
            "half_body": self._half_body,
            "invalid_json": self._invalid_json,
            "cut_download": self._cut_download,
            "ignore_range": self._ignore_range,
            "wrong_content": self._wrong_content,
        }
        await actions[rule.action](rule)

    async def _run(self, send: Send | None = None) -> None:
        await self._app(self._scope, self._receive, send or self._send)

    async def _capture(self) -> tuple[Message, bytes]:
        """Carry out the call, but do not send its answer."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._run(keep)
        return messages[0], b"".join(message.get("body", b"") for message in messages[1:])

    async def _answer(self, start: Message, body: bytes) -> None:
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _cut(self, *, flush: bool = False) -> None:
        """Close the TCP connection, and wait until it is closed, so that nothing more is sent on it."""
        if flush:
            self._transport.close()
        else:
            self._transport.abort()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _status(self, rule: FaultRule) -> None:
        if rule.after:
            await self._capture()
        body = rule.body
        if body is None:
            text = f"The dev server answers {rule.status}, as a fault asked it to."
            body = error_body(rule.status, text, code=rule.code)
        kind = rule.content_type or ("text/html" if isinstance(body, str) else "application/json")
        content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
        headers = [(name.lower().encode(), value.encode()) for name, value in rule.headers.items()]
        start = {"type": "http.response.start", "status": rule.status}
        await self._answer({**start, "headers": [*headers, (b"content-type", kind.encode())]}, content)

    async def _drop_before(self, _rule: FaultRule) -> None:
        await self._cut()

    async def _drop_after(self, _rule: FaultRule) -> None:
        await self._capture()
        await self._cut()

    async def _drop_during(self, _rule: FaultRule) -> None:
        await self._send_part(lambda length: length // 2)

    async def _cut_download(self, rule: FaultRule) -> None:
        await self._send_part(lambda length: min(rule.bytes, length))

    async def _send_part(self, share: Callable[[int], int]) -> None:
        """Announce the length of the whole body, send only its first part, and cut the connection."""
        left = 0

        async def part(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                left = share(int(dict(message["headers"])[b"content-length"]))
                await self._send(message)
            elif left:
                body = message.get("body", b"")[:left]
                left -= len(body)
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
            if not left:
                self._transport.close()  # what was written is still sent

        await self._run(part)
        await self._cut(flush=True)

    async def _delay(self, rule: FaultRule) -> None:
        await asyncio.sleep(rule.seconds)
        await self._run()

    async def _half_body(self, _rule: FaultRule) -> None:
        start, body = await self._capture()
        await self._answer(start, body[: len(body) // 2])

    async def _invalid_json(self, _rule: FaultRule) -> None:
        start, _ = await self._capture()
        await self._answer(start, b"<!-- not JSON -->")

    async def _ignore_range(self, _rule: FaultRule) -> None:
        headers = [header for header in self._scope["headers"] if header[0] != b"range"]
        await self._app({**self._scope, "headers": headers}, self._receive, self._send)

    async def _wrong_content(self, _rule: FaultRule) -> None:
        """The right number of bytes, but wrong ones."""

        async def wrong(message: Message) -> None:
            if message.get("body"):
                message = {**message, "body": b"?" * len(message["body"])}
            await self._send(message)

        await self._run(wrong)
