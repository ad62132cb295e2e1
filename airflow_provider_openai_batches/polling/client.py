"""The one client of a connection on an event loop: opened late, paced, and renewed when its key changes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.compat.supervisor import aread_config
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.polling.list_plan import PAGE
from airflow_provider_openai_batches.polling.rate_limit import Pace

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch, BatchPage

IN_FLIGHT = 10
# After a 429 the same request waits for its next turn, so often.
TURNS = 4
READ_AGAIN_AFTER = 300.0


class SharedClient:
    """
    Retrieve, list and cancel for everybody who uses one connection.

    :param conn_id: the Airflow connection.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._client: AsyncBatchesClient | None = None
        self._replaced: list[AsyncBatchesClient] = []
        self._cancels = 0
        self._read_at = 0.0
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._pace = Pace()
        self._sent = self._rate_limited = 0

    async def retrieve_batch(self, batch_id: str) -> Batch:
        """``GET /batches/{batch_id}``, when its turn has come."""
        batch: Batch = await self._ask("retrieve_batch", batch_id)
        return batch

    async def list_batches(self, after: str | None) -> BatchPage:
        """``GET /batches``, when its turn has come."""
        page: BatchPage = await self._ask("list_batches", after, PAGE)
        return page

    async def cancel_batch(self, batch_id: str) -> Batch:
        """``POST /batches/{batch_id}/cancel``, at once."""
        self._cancels += 1
        try:
            return await (await self.open()).cancel_batch(batch_id)
        finally:
            self._cancels -= 1

    async def open(self) -> AsyncBatchesClient:
        """
        The client of the connection as it was last read.

        :raises InvalidConnectionError: if the connection does not exist, or cannot be used.
        """
        async with self._opening:
            if self._client is None:
                self._client = await self._build(await self._read())
            return self._client

    async def refresh(self) -> bool:
        """Read the connection again; whether it has changed. Nothing may be under way but cancels."""
        async with self._opening:
            config = await self._read()
            if self._client is None or config == self._client.config:
                return False
            self._replaced.append(self._client)
            self._client = await self._build(config)
            if not self._cancels:
                await self._close_replaced()
            return True

    async def refresh_now_and_then(self) -> None:
        """Read the connection again if that is some minutes ago; if that fails, the old one serves."""
        if self._client and time.monotonic() - self._read_at > READ_AGAIN_AFTER:
            try:
                await self.refresh()
            except OpenAIBatchesError:
                return

    def count(self) -> tuple[int, int]:
        """How many requests were sent, and answered 429, since this was asked last."""
        counts = self._sent, self._rate_limited
        self._sent = self._rate_limited = 0
        return counts

    async def aclose(self) -> None:
        if self._client:
            self._replaced.append(self._client)
            self._client = None
        await self._close_replaced()

    async def _close_replaced(self) -> None:
        while self._replaced:
            await self._replaced.pop().aclose()

    async def _read(self) -> ClientConfig:
        self._read_at = time.monotonic()
        return await aread_config(self._conn_id)

    async def _build(self, config: ClientConfig) -> AsyncBatchesClient:
        # Reading the certificates takes some 25 ms, too long for a loop that others share.
        return await asyncio.to_thread(AsyncBatchesClient, config, max_attempts=1)

    async def _ask(self, operation: str, *args: Any) -> Any:
        client = await self.open()
        for turn in range(1, TURNS + 1):
            async with self._slots:
                started = await self._turn()
                self._sent += 1
                try:
                    answer = await getattr(client, operation)(*args)
                except APIError as error:
                    if error.status != 429:  # noqa: PLR2004 - HTTP
                        raise
                    self._rate_limited += 1
                    self._pace.slowed(started, time.monotonic(), error.retry_after)
                    if turn == TURNS:
                        raise
                else:
                    self._pace.answered()
                    return answer
        raise AssertionError

    async def _turn(self) -> float:
        while True:
            await asyncio.sleep(self._pace.turn(time.monotonic()))
            if (now := time.monotonic()) >= self._pace.paused_until:
                return now
