"""The HTTP client that all waits of one connection share: it limits its pace and picks up a changed key."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.retry import MAX_RETRY_AFTER, may_repeat
from airflow_provider_openai_batches.api.validation import MAX_PAGE
from airflow_provider_openai_batches.compat.supervisor import aread_config
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch, BatchPage

T = TypeVar("T")
LoopAndConnection = tuple[asyncio.AbstractEventLoop, str]

IN_FLIGHT = 10
# A request is sent up to this many times while the answer is 429.
MAX_TURNS = 4
READ_AGAIN_AFTER = 300.0

PER_SECOND = 50.0
SLOWEST_GAP = 1.0
SPEED_UP = 0.8
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class Pace:
    """Spaces requests evenly. After a 429 it pauses and slows down; good answers speed it up again."""

    def __init__(self) -> None:
        self._gap = 1 / PER_SECOND
        self._free_at = 0.0
        self._slowed_at = 0.0
        self._pause = FIRST_PAUSE
        self.paused_until = 0.0

    def turn(self, now: float) -> float:
        """Take the next turn, and return how many seconds away it is."""
        start = max(now, self._free_at, self.paused_until)
        self._free_at = start + self._gap
        return start - now

    def answered(self) -> None:
        self._gap = max(1 / PER_SECOND, self._gap * SPEED_UP)
        self._pause = FIRST_PAUSE

    def slowed(self, started: float, now: float, retry_after: float | None) -> None:
        """
        Note a 429.

        :param started: when the request was sent. Requests that were under way together count once.
        """
        if started < self._slowed_at:
            return
        self._slowed_at = now
        self._gap = min(self._gap * 2, SLOWEST_GAP)
        pause = max(self._pause, min(retry_after or 0.0, MAX_RETRY_AFTER))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self.paused_until = self._free_at = now + pause


class SharedClient:
    """
    Retrieves, lists and cancels for everyone who uses one connection. It is opened by the first request.

    :param conn_id: the Airflow connection.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._client: AsyncBatchesClient | None = None
        self._replaced: AsyncBatchesClient | None = None
        self._read_at = 0.0
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._pace = Pace()
        self._sent = self._rate_limited = 0
        self.users = 0

    async def retrieve_batch(self, batch_id: str) -> Batch:
        """``GET /batches/{batch_id}``, when it is its turn."""
        return await self._in_turn("retrieve_batch", lambda client: client.retrieve_batch(batch_id))

    async def list_batches(self, after: str | None) -> BatchPage:
        """``GET /batches``, when it is its turn."""
        return await self._in_turn("list_batches", lambda client: client.list_batches(after, MAX_PAGE))

    async def cancel_batch(self, batch_id: str) -> Batch:
        """``POST /batches/{batch_id}/cancel``, at once."""
        return await (await self.open()).cancel_batch(batch_id)

    async def open(self) -> AsyncBatchesClient:
        """
        Return the client for the connection as it was last read.

        :raises InvalidConnectionError: if the connection does not exist, or cannot be used.
        """
        async with self._opening:
            if self._client is None:
                self._client = await self._build(await self._read())
            return self._client

    async def refresh(self) -> bool:
        """Read the connection again, and return whether it has changed. Only cancels may be under way."""
        async with self._opening:
            config = await self._read()
            if self._client is None or config == self._client.config:
                return False
            if self._replaced:
                await self._replaced.aclose()
            # It stays open until the next change: a cancel that is under way may still use it.
            self._replaced, self._client = self._client, await self._build(config)
            return True

    async def refresh_now_and_then(self) -> None:
        """Read the connection again every few minutes; if that fails, keep the one that was read before."""
        if self._client and time.monotonic() - self._read_at > READ_AGAIN_AFTER:
            try:
                await self.refresh()
            except OpenAIBatchesError:
                return

    def count(self) -> tuple[int, int]:
        """Return how many requests were sent, and how many were answered 429, since the last call."""
        counts = self._sent, self._rate_limited
        self._sent = self._rate_limited = 0
        return counts

    async def aclose(self) -> None:
        clients, self._client, self._replaced = (self._client, self._replaced), None, None
        for client in filter(None, clients):
            await client.aclose()

    async def _read(self) -> ClientConfig:
        self._read_at = time.monotonic()
        return await aread_config(self._conn_id)

    async def _build(self, config: ClientConfig) -> AsyncBatchesClient:
        # In a thread: reading the certificates takes about 25 ms, too long for a shared event loop.
        return await asyncio.to_thread(AsyncBatchesClient, config, max_attempts=1)

    async def _in_turn(self, operation: str, send: Callable[[AsyncBatchesClient], Awaitable[T]]) -> T:
        client = await self.open()
        turn = 1
        while True:
            async with self._slots:
                started = await self._turn()
                self._sent += 1
                try:
                    answer = await send(client)
                except APIError as error:
                    if not self._is_too_fast(operation, error, started) or turn == MAX_TURNS:
                        raise
                else:
                    self._pace.answered()
                    return answer
            turn += 1

    def _is_too_fast(self, operation: str, error: APIError, started: float) -> bool:
        """Slow down if the service asks for that. A 429 for lack of money says nothing about the pace."""
        if error.status != HTTPStatus.TOO_MANY_REQUESTS:
            return False
        self._rate_limited += 1
        if not may_repeat(operation, error):
            return False
        self._pace.slowed(started, time.monotonic(), error.retry_after)
        return True

    async def _turn(self) -> float:
        while True:
            await asyncio.sleep(self._pace.turn(time.monotonic()))
            if (now := time.monotonic()) >= self._pace.paused_until:
                return now


_clients: dict[LoopAndConnection, SharedClient] = {}


@asynccontextmanager
async def borrow(conn_id: str) -> AsyncIterator[SharedClient]:
    """Use the client that everyone on the running event loop shares; the last one closes it."""
    client = on_this_loop(_clients, conn_id, SharedClient)
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if not client.users:
            _clients.pop((asyncio.get_running_loop(), conn_id), None)
            await client.aclose()


def on_this_loop(shared: dict[LoopAndConnection, T], conn_id: str, create: Callable[[str], T]) -> T:
    """Return what is shared on the running event loop, and drop what closed loops left behind."""
    for key in [key for key in shared if key[0].is_closed()]:
        del shared[key]
    key = (asyncio.get_running_loop(), conn_id)
    if key not in shared:
        shared[key] = create(conn_id)
    return shared[key]


async def for_each(work: Sequence[T], ask: Callable[[T], Awaitable[object]]) -> None:
    """Call ``ask`` for each, a few at a time; raise the first error once the calls under way have ended."""
    left = iter(work)
    errors: list[OpenAIBatchesError] = []

    async def worker() -> None:
        for one in left:
            try:
                await ask(one)
            except OpenAIBatchesError as error:
                errors.append(error)
            if errors:
                return

    await asyncio.gather(*(worker() for _ in range(min(IN_FLIGHT, len(work)))))
    if errors:
        raise errors[0]
