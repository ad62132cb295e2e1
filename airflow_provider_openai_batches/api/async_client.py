"""The httpx client of triggerers and API servers: it sends what :mod:`.protocol` builds."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import tenacity

from airflow_provider_openai_batches.api import protocol, retry
from airflow_provider_openai_batches.api.body import ACCEPTED, MAX_ERROR_BYTES, Bounded, Decoder
from airflow_provider_openai_batches.api.retry import is_success
from airflow_provider_openai_batches.exceptions import APIError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch, BatchPage, File

log = logging.getLogger(__name__)
T = TypeVar("T")
# After one of these, not a byte of the request was sent.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)

# Seconds; longer than the usual poll interval, shorter than routers keep silent connections open.
KEEP_ALIVE = 90.0
# Of one httpx client. When a request begins or ends, httpx looks at all connections for each that is idle:
# with 200 of them that takes longer than the rest of the request, and no limit of a service is reached.
CONNECTIONS_OF_ONE = 10
# Of one live answer; two thousand embeddings of 3,072 numbers in base64 are 33 MB.
MAX_LIVE_BYTES = 64 << 20
# A live answer of more bytes is large, and has to wait until there is room for MAX_LIVE_BYTES.
LARGE_BYTES = 128 << 10
_JSON = {"Content-Type": "application/json"}
_LIMIT = "time limit"
_is_live: ContextVar[bool] = ContextVar("is_live", default=False)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether a line of httpx's is logged: each request has one, and there are thousands of live ones."""
    return record.levelno > logging.INFO or not _is_live.get()


class _Clients:
    """Some httpx clients that have few connections each, and these together."""

    def __init__(self, connections: int, **settings: Any) -> None:
        sizes = [min(CONNECTIONS_OF_ONE, connections - n) for n in range(0, connections, CONNECTIONS_OF_ONE)]
        certificates = httpx.create_ssl_context()  # loading them takes longer than all else here
        self._clients = [
            httpx.AsyncClient(
                **settings,
                verify=certificates,
                limits=httpx.Limits(
                    max_connections=size, max_keepalive_connections=size, keepalive_expiry=KEEP_ALIVE
                ),
            )
            for size in sizes
        ]
        self._free = sizes

    @property
    def is_closed(self) -> bool:
        return all(client.is_closed for client in self._clients)

    @asynccontextmanager
    async def stream(self, method: str, url: str, **settings: Any) -> AsyncIterator[httpx.Response]:
        """Send a request with the first client that has a free connection, or where fewest wait for one."""
        free = self._free
        number = next((number for number, count in enumerate(free) if count > 0), free.index(max(free)))
        free[number] -= 1
        try:
            async with self._clients[number].stream(method, url, **settings) as answer:
                yield answer
        finally:
            free[number] += 1

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


class AsyncBatchesClient:
    """
    Retrieve, list and cancel batches on an event loop.

    :param max_attempts: replaces the connection's value; 1 for a caller that asks again anyway. Cancels keep
        the connection's value.
    :param connections: how many connections may be open at the same time.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        max_attempts: int | None = None,
        connections: int = 10,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self.max_attempts = max_attempts or config.max_attempts
        self._sleep = sleep
        for logger in ("httpx", "httpcore.http11"):  # the latter has the headers of answers
            config.redact_log(logger)
        logging.getLogger("httpx").addFilter(_is_worth_a_line)
        self._http = _Clients(connections, headers=config.headers, params=config.params)

    async def retrieve_batch(self, batch_id: str) -> Batch:
        """``GET /batches/{batch_id}``."""
        return await self._send(protocol.retrieve_batch(batch_id), protocol.read_batch)

    async def list_batches(self, after: str | None = None, limit: int = 20) -> BatchPage:
        """Return one page of ``GET /batches``, newest first."""
        return await self._send(protocol.list_batches(after, limit), protocol.read_page)

    async def cancel_batch(self, batch_id: str) -> Batch:
        """``POST /batches/{batch_id}/cancel``; after a refusal one look tells whether the batch is over."""
        request = protocol.cancel_batch(batch_id)

        async def attempt() -> Batch:
            try:
                return protocol.read_batch(await self._send_once(request))
            except APIError as error:
                if not retry.may_be_over(error):
                    raise
                batch = protocol.read_batch(await self._send_once(protocol.retrieve_batch(batch_id)))
                if batch.can_be_cancelled:
                    raise
                return batch

        return await self._repeat(request, attempt, self.config.max_attempts)

    async def retrieve_file(self, file_id: str) -> File:
        """``GET /files/{file_id}``."""
        return await self._send(protocol.retrieve_file(file_id), protocol.read_file)

    async def read_file_start(self, file_id: str, size: int) -> bytes:
        """
        Return the first ``size`` bytes of ``GET /files/{file_id}/content``.

        Not every server supports ranges, so reading stops there even if more bytes come.

        :raises TransportError: if no answer came.
        :raises APIError: if the service answered with an error.
        """
        request = protocol.download_file(file_id)
        async with self._answer(request, {"Range": f"bytes=0-{size - 1}"}, "identity") as answer:
            # Some servers answer 416 for an empty file, because it has no first byte.
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            if not is_success(answer.status_code):
                await self._reply(request, answer)
            return await _start(answer, size)

    async def ask(
        self, request: protocol.HttpRequest, before_large: Callable[[], Awaitable[None]] | None = None
    ) -> protocol.HttpReply:
        """
        Send a live request once; an answer that is an error is returned too.

        An answer beyond :data:`MAX_LIVE_BYTES` is cut there, an error beyond :data:`.body.MAX_ERROR_BYTES`.

        :param before_large: awaited once before more than :data:`LARGE_BYTES` of an answer are read. The time
            for the answer stands still meanwhile.
        :raises TransportError: if no answer came.
        """
        _is_live.set(True)
        try:
            async with self._answer(request, _JSON, ACCEPTED) as answer:
                size = MAX_LIVE_BYTES if is_success(answer.status_code) else MAX_ERROR_BYTES
                body = await _start(answer, size, before_large and _in_no_time(answer, before_large))
                return protocol.reply(request, self.config, answer.status_code, answer.headers, body)
        finally:
            _is_live.set(False)

    def _timeout(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=self.config.connect_timeout, pool=None)

    async def aclose(self) -> None:
        """Close all connections, whatever is cancelled meanwhile: httpx would leave the others open then."""
        closing = asyncio.create_task(self._http.aclose(), name=protocol.CLOSING)
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled

    async def _send(
        self,
        request: protocol.HttpRequest,
        read: Callable[[protocol.HttpReply], T],
        attempts: int | None = None,
    ) -> T:
        async def attempt() -> T:
            return read(await self._send_once(request))

        return await self._repeat(request, attempt, attempts or self.max_attempts)

    async def _repeat(
        self, request: protocol.HttpRequest, attempt: Callable[[], Awaitable[T]], attempts: int
    ) -> T:
        policy = retry.policy(request.operation, attempts, log)
        result: T = await tenacity.AsyncRetrying(sleep=self._sleep, **policy)(attempt)
        return result

    async def _send_once(self, request: protocol.HttpRequest) -> protocol.HttpReply:
        async with self._answer(request, _JSON if request.json else {}, ACCEPTED) as answer:
            return await self._reply(request, answer)

    @asynccontextmanager
    async def _answer(
        self, request: protocol.HttpRequest, headers: dict[str, str], encoding: str
    ) -> AsyncIterator[httpx.Response]:
        """Yield an answer whose body is read within the time for a whole answer."""
        seconds = protocol.seconds_for(request, self.config)
        try:
            async with (
                asyncio.timeout(seconds) as limit,
                self._http.stream(
                    request.method,
                    f"{self.config.base_url}{request.path}",
                    params=request.params,
                    content=request.json,
                    headers={**headers, "Accept-Encoding": encoding},
                    timeout=self._timeout(seconds if request.seconds else self.config.timeout),
                ) as answer,
            ):
                answer.extensions[_LIMIT] = limit
                yield answer
        except httpx.HTTPError as error:
            sent = not isinstance(error, NOT_SENT)
            raise TransportError(protocol.no_answer(self.config, request, error), sent=sent) from None
        except TimeoutError:
            raise protocol.too_slow(self.config, request) from None

    async def _reply(self, request: protocol.HttpRequest, answer: httpx.Response) -> protocol.HttpReply:
        """
        Read a body, within the bounds of an answer that is JSON.

        :raises APIError: if the answer is an error.
        """
        body = Bounded(answer.headers.get("content-encoding"), is_error=not is_success(answer.status_code))
        async for piece in answer.aiter_raw():
            if not body.feed(piece):
                break
        reply = protocol.reply(request, self.config, answer.status_code, answer.headers, body.whole())
        protocol.raise_failure(reply, self.config, time.time())
        return reply


def _in_no_time(answer: httpx.Response, wait: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Let the time in which an answer has to be read stand still while something else is waited for."""

    async def waits() -> None:
        limit, clock = answer.extensions[_LIMIT], asyncio.get_running_loop().time
        left = limit.when() - clock()
        limit.reschedule(None)
        await wait()
        limit.reschedule(clock() + left)

    return waits


async def _start(
    answer: httpx.Response, size: int, before_large: Callable[[], Awaitable[None]] | None = None
) -> bytes:
    """Read a body, but no more than ``size`` bytes of it."""
    is_error = not is_success(answer.status_code)
    start, decoder = bytearray(), Decoder(answer.headers.get("content-encoding"), keeps_unknown=is_error)
    async for piece in answer.aiter_raw():
        for decoded in decoder.feed(piece):
            if before_large and len(start) + len(decoded) > LARGE_BYTES:
                await before_large()
                before_large = None
            start += decoded
            if len(start) >= size:
                del start[size:]
                return bytes(start)
    return bytes(start)
