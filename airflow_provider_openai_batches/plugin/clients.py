"""From a connection's id to its service: settings, client, and answers that many viewers share."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID, ClientConfig
from airflow_provider_openai_batches.plugin.cache import SharedCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.api.models import Batch, BatchPage, File

CONN_TYPES = ("openai_batches", "openai")
PAGE_SIZE = 100
FILE_START = 65_536
# A person is waiting: rather a sentence now than an answer in a minute.
MAX_TIMEOUT = 15.0


class UnknownConnectionError(LookupError):
    """No connection of that id, or none of a type that is meant for this."""


def load_config(conn_id: str) -> ClientConfig:
    """
    Read a connection; blocks.

    :raises UnknownConnectionError: if there is none of a fitting type.
    :raises InvalidConnectionError: if it cannot be used.
    """
    try:
        conn = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        raise UnknownConnectionError(conn_id) from None
    if conn.conn_type not in CONN_TYPES:
        raise UnknownConnectionError(conn_id)
    config = ClientConfig.from_connection(conn, os.environ)
    return msgspec.structs.replace(
        config,
        timeout=min(config.timeout, MAX_TIMEOUT),
        connect_timeout=min(config.connect_timeout, 5.0),
        max_attempts=1,
    )


def list_connections() -> list[str]:
    """The ids of the connections to choose from, the default one first; blocks."""
    with create_session() as session:
        query = select(Connection.conn_id).where(Connection.conn_type.in_(CONN_TYPES))
        known = set(session.scalars(query))
    if DEFAULT_CONN_ID not in known and _is_elsewhere(DEFAULT_CONN_ID):
        known.add(DEFAULT_CONN_ID)
    return sorted(known, key=lambda conn_id: (conn_id != DEFAULT_CONN_ID, conn_id))


def _is_elsewhere(conn_id: str) -> bool:
    """Whether the environment or a secrets backend, which cannot be listed, has this connection."""
    try:
        return Connection.get_connection_from_secrets(conn_id).conn_type in CONN_TYPES
    except AirflowNotFoundException:
        return False


class Service:
    """What one connection's service says; each answer serves all viewers for some seconds."""

    def __init__(self, config: ClientConfig, seconds: float) -> None:
        self.config = config
        self.client = AsyncBatchesClient(config)
        self._shared = SharedCalls(seconds)

    async def page(self, after: str | None) -> BatchPage:
        page: BatchPage = await self._shared.get(
            ("page", after), lambda: self.client.list_batches(after, PAGE_SIZE)
        )
        return page

    async def batch(self, batch_id: str) -> Batch:
        batch: Batch = await self._shared.get(
            ("batch", batch_id), lambda: self.client.retrieve_batch(batch_id)
        )
        return batch

    async def file(self, file_id: str) -> File:
        file: File = await self._shared.get(("file", file_id), lambda: self.client.retrieve_file(file_id))
        return file

    async def file_start(self, file_id: str) -> bytes:
        start: bytes = await self._shared.get(
            ("start", file_id), lambda: self.client.read_file_start(file_id, FILE_START)
        )
        return start

    async def cancel(self, batch_id: str) -> Batch:
        try:
            return await self.client.cancel_batch(batch_id)
        finally:
            self._shared.forget()


class Services:
    """
    One :class:`Service` for each connection; a changed connection gets a new one.

    :param seconds: how long an answer, and the reading of a connection, serves.
    """

    def __init__(self, seconds: float = 4.0, load: Callable[[str], ClientConfig] = load_config) -> None:
        self._seconds = seconds
        self._load = load
        self._configs = SharedCalls(seconds)
        self._open: dict[str, Service] = {}

    async def get(self, conn_id: str) -> Service:
        """
        The service behind a connection.

        :raises UnknownConnectionError: if there is no such connection.
        :raises InvalidConnectionError: if it cannot be used.
        """
        config: Any = await self._configs.get(conn_id, lambda: asyncio.to_thread(self._load, conn_id))
        known = self._open.get(conn_id)
        if known is not None and known.config == config:
            return known
        service = self._open[conn_id] = Service(config, self._seconds)
        if known is not None:
            await known.client.aclose()
        return service
