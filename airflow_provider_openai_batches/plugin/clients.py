"""A client for each connection; its answers are cached for a few seconds and shared by all viewers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.plugin.cache import CallCache
from airflow_provider_openai_batches.plugin.connections import load_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch, BatchPage, File

PAGE_SIZE = 100
# How many bytes of an error file are read to show its first lines.
FILE_START = 65_536


class CachedClient:
    """
    The service behind one connection.

    :param seconds: how long an answer is kept and served to all viewers.
    """

    def __init__(self, config: ClientConfig, seconds: float) -> None:
        self.config = config
        self._client = AsyncBatchesClient(config)
        self._cache = CallCache(seconds)

    async def page(self, after: str | None) -> BatchPage:
        page: BatchPage = await self._cache.get(
            ("page", after), lambda: self._client.list_batches(after, PAGE_SIZE)
        )
        return page

    async def batch(self, batch_id: str) -> Batch:
        batch: Batch = await self._cache.get(
            ("batch", batch_id), lambda: self._client.retrieve_batch(batch_id)
        )
        return batch

    async def batch_now(self, batch_id: str) -> Batch:
        """The batch as it is at this moment, not from the cache."""
        return await self._client.retrieve_batch(batch_id)

    async def file(self, file_id: str) -> File:
        file: File = await self._cache.get(("file", file_id), lambda: self._client.retrieve_file(file_id))
        return file

    async def file_start(self, file_id: str) -> bytes:
        start: bytes = await self._cache.get(
            ("start", file_id), lambda: self._client.read_file_start(file_id, FILE_START)
        )
        return start

    async def cancel(self, batch_id: str) -> Batch:
        try:
            return await self._client.cancel_batch(batch_id)
        finally:
            self._cache.clear()

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
        self._clients: dict[str, CachedClient] = {}

    async def get(self, conn_id: str) -> CachedClient:
        """
        The client of a connection.

        :raises AirflowNotFoundException: if there is no such connection.
        :raises InvalidConnectionError: if the connection cannot be used.
        """
        config: Any = await self._configs.get(conn_id, lambda: asyncio.to_thread(self._load, conn_id))
        known = self._clients.get(conn_id)
        if known is not None and known.config == config:
            return known
        client = self._clients[conn_id] = CachedClient(config, self._seconds)
        if known is not None:
            await known.aclose()
        return client

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
