"""An Airflow connection, read on an event loop: nothing here blocks it, on any Airflow 3."""

from __future__ import annotations

import os
from types import SimpleNamespace

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.common.compat.sdk import AirflowNotFoundException, mask_secret
from asgiref.sync import sync_to_async

from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.compat.supervisor import uncut
from airflow_provider_openai_batches.exceptions import InvalidConnectionError, TransportError

READ_WITHIN = 30.0


async def aread_config(conn_id: str) -> ClientConfig:
    """
    Read the connection, and have its secrets masked in all logs.

    :raises InvalidConnectionError: if it does not exist, or cannot be used.
    :raises TransportError: if Airflow did not say in time.
    """
    try:
        return await uncut(_read(conn_id), READ_WITHIN)
    except AirflowNotFoundException:
        raise InvalidConnectionError(
            f"Airflow has no connection {conn_id!r}, or could not look it up. Create it, or correct the "
            "task's openai_conn_id."
        ) from None
    except TimeoutError:
        raise TransportError(
            f"Airflow did not give out the connection {conn_id!r} within {READ_WITHIN:.0f} s", sent=False
        ) from None


async def _read(conn_id: str) -> ClientConfig:
    conn = await get_async_connection(conn_id)
    # The connection's own extra_dejson tells the supervisor about secrets in a way that blocks the loop.
    plain = SimpleNamespace(
        conn_id=conn_id,
        host=conn.host,
        schema=conn.schema,
        port=conn.port,
        password=conn.password,
        extra_dejson=await get_async_extra_dejson(conn),
    )
    config = ClientConfig.from_connection(plain, os.environ)
    for secret in config.secrets:
        await sync_to_async(mask_secret)(secret)
    return config
