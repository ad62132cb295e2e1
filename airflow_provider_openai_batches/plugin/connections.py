"""The connections that the page offers, and the settings of one of them."""

from __future__ import annotations

import msgspec
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID, ClientConfig
from airflow_provider_openai_batches.compat.supervisor import read_config

CONN_TYPES = ("openai_batches", "openai")
# Seconds. A person is waiting: an error at once is better than an answer after a minute.
MAX_TIMEOUT = 15.0
MAX_CONNECT_TIMEOUT = 5.0


def load_config(conn_id: str) -> ClientConfig:
    """
    Read a connection, with timeouts that suit a person who is waiting for a page; blocks.

    :raises AirflowNotFoundException: if there is no connection with this id and a suitable type.
    :raises InvalidConnectionError: if the connection cannot be used.
    """
    config = read_config(conn_id, _find)
    return msgspec.structs.replace(
        config,
        timeout=min(config.timeout, MAX_TIMEOUT),
        connect_timeout=min(config.connect_timeout, MAX_CONNECT_TIMEOUT),
        max_attempts=1,
    )


def list_connections() -> list[str]:
    """The ids to choose from, the default one first; blocks."""
    with create_session() as session:
        query = select(Connection.conn_id).where(Connection.conn_type.in_(CONN_TYPES))
        known = set(session.scalars(query))
    if DEFAULT_CONN_ID not in known and _is_defined_elsewhere(DEFAULT_CONN_ID):
        known.add(DEFAULT_CONN_ID)
    return sorted(known, key=lambda conn_id: (conn_id != DEFAULT_CONN_ID, conn_id))


def _is_defined_elsewhere(conn_id: str) -> bool:
    """Whether the environment or a secrets backend has this connection; neither can be listed."""
    try:
        _find(conn_id)
    except AirflowNotFoundException:
        return False
    return True


def _find(conn_id: str) -> Connection:
    """A connection from wherever Airflow keeps it; one of another type counts as missing."""
    conn = Connection.get_connection_from_secrets(conn_id)
    if conn.conn_type not in CONN_TYPES:
        raise AirflowNotFoundException(f"Connection {conn_id!r} is of type {conn.conn_type!r}")
    return conn
