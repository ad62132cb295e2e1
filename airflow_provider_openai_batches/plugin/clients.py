"""A client for each connection; its answers are cached for a few seconds and shared by all viewers."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.plugin.cache import CallCache
from airflow_provider_openai_batches.plugin.connections import load_config
from airflow_provider_openai_batches.plugin.throttle import Throttle, TooFastError
from airflow_provider_openai_batches.pricing.prices import Prices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch, BatchPage, File

PAGE_SIZE = 100
# How many bytes of an error file are read to show its first lines.
FILE_START = 65_536


class CachedClient:
    """
    The service behind one connection, for one user.

    :param seconds: how long an answer is kept and served to all viewers.
    :raises TooFastError: from each method, if its requests come too fast.
    """

    def __init__(self, config: ClientConfig, seconds: float) -> None:
        self.config = config
        self.prices = Prices.of(config)
        self._client = AsyncBatchesClient(config)
        self._cache = CallCache(seconds)
        self._throttle = Throttle()
        self.user = ""
        # The users who are cancelling a job; all users' clients have the same set.
        self.cancelling: set[str] = set()

    def of(self, user: str) -> CachedClient:
        """The same client, for another user."""
        theirs = copy(self)
        theirs.user = user
        return theirs

    async def page(self, after: str | None) -> BatchPage:
        page: BatchPage = await self._cached(
            ("page", after), lambda: self._client.list_batches(after, PAGE_SIZE)
        )
        return page

    async def batch(self, batch_id: str) -> Batch:
        batch: Batch = await self._cached(("batch", batch_id), lambda: self._client.retrieve_batch(batch_id))
        return batch

    async def batch_now(self, batch_id: str) -> Batch:
        """The batch as it is at this moment, not from the cache."""
        batch: Batch = await self._throttle.paced(self.user, lambda: self._client.retrieve_batch(batch_id))()
        return batch

    async def page_now(self, after: str | None) -> BatchPage:
        """The page as it is at this moment, when no other request waits for its turn."""
        page: BatchPage = await self._in_turn(lambda: self._client.list_batches(after, PAGE_SIZE))
        return page

    async def file(self, file_id: str) -> File:
        file: File = await self._cached(("file", file_id), lambda: self._client.retrieve_file(file_id))
        return file

    async def file_start(self, file_id: str) -> bytes:
        start: bytes = await self._cached(
            ("start", file_id), lambda: self._client.read_file_start(file_id, FILE_START)
        )
        return start

    async def cancel(self, batch_id: str) -> Batch:
        """Cancel a batch that was retrieved before, and that this user may cancel."""
        try:
            return await self._client.cancel_batch(batch_id)
        finally:
            self._cache.clear()

    async def cancel_in_turn(self, batch_id: str) -> Batch:
        """
        Cancel a batch that this user may cancel, when no other request waits for its turn.

        A failed cancel may have been carried out: the batch itself says so.
        """
        try:
            batch: Batch = await self._in_turn(lambda: self._client.cancel_batch(batch_id))
        except TooFastError:  # it was not sent
            raise
        except OpenAIBatchesError as error:
            batch = await self._looked_at(batch_id, error)
        finally:
            self._cache.clear()
        return batch

    async def _looked_at(self, batch_id: str, error: OpenAIBatchesError) -> Batch:
        try:
            batch: Batch = await self._in_turn(lambda: self._client.retrieve_batch(batch_id))
        except OpenAIBatchesError:
            raise error from None
        if batch.can_be_cancelled:
            raise error
        return batch

    async def _in_turn(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await self._throttle.patiently(self.user, call)

    async def _cached(self, key: tuple[str, str | None], call: Callable[[], Awaitable[Any]]) -> Any:
        return await self._cache.get(key, self._throttle.paced(self.user, call))

    async def aclose(self) -> None:
        await self._client.aclose()


class CachedClients:
    """
    The clients of all connections that somebody looks at; a changed connection gets a new client.

    :param seconds: how long answers, and the settings of a connection, are kept.
    """

    def __init__(self, seconds: float = 4.0, load: Callable[[str], ClientConfig] = load_config) -> None:
        self._seconds = seconds
        self._load = load
        self._configs = CallCache(seconds)
        self._lookups = Throttle()
        self._clients: dict[str, CachedClient] = {}

    async def get(self, conn_id: str, user: str) -> CachedClient:
        """
        The client of a connection, for a user.

        :raises AirflowNotFoundException: if there is no such connection.
        :raises InvalidConnectionError: if the connection cannot be used.
        :raises TooFastError: if the user asks for too many connections.
        """
        load = self._lookups.paced(user, lambda: asyncio.to_thread(self._load, conn_id))
        config: Any = await self._configs.get(conn_id, load)
        known = self._clients.get(conn_id)
        if known is not None and known.config == config:
            return known.of(user)
        client = self._clients[conn_id] = CachedClient(config, self._seconds)
        if known is not None:
            await known.aclose()
        return client.of(user)

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
