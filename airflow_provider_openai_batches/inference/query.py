"""Where the rows of a job come from: what the DAG gives, files, or a query."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.idempotency.service import Service

SQL_CHUNK = 2_000


def rows_of_files(input_uri: Any, hook: Service) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of one or several files, globs and directories.

    :param hook: in whose name Airflow's lineage is told of them.
    :raises InvalidInputError: if a file is missing or cannot be read; it names file and line.
    """
    from airflow_provider_openai_batches.inference.data.readers import read_rows  # noqa: PLC0415 - not when a DAG is parsed

    several = isinstance(input_uri, Iterable) and not isinstance(input_uri, str | os.PathLike)
    uris = list(input_uri) if several and not hasattr(input_uri, "open") else [input_uri]
    rows = read_rows([storage.as_path(uri) for uri in uris])
    hook.note_inputs(*uris)
    return rows


def rows_of_query(sql: str, conn_id: str) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of a query as dicts, fetched in chunks.

    :param conn_id: an Airflow connection whose hook gives a DB-API connection.
    :raises InvalidInputError: if the connection has no such hook, or the query returns no columns.
    """
    with closing(_connect(conn_id)) as connection, closing(_cursor(connection)) as cursor:
        cursor.execute(sql)
        rows = cursor.fetchmany(SQL_CHUNK)  # a server-side cursor knows its columns only after this
        if cursor.description is None:
            raise InvalidInputError("The query of sql returns no rows: it must be a SELECT.")
        names = [column[0] for column in cursor.description]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInputError(
                f"The query of sql has two columns named {', '.join(doubled)}: rename one with AS."
            )
        while rows:
            for row in rows:
                yield dict(zip(names, row, strict=True))
            rows = cursor.fetchmany(SQL_CHUNK)


def _connect(conn_id: str) -> Any:
    from airflow.providers.common.compat.sdk import (  # noqa: PLC0415 - only jobs with a query
        AirflowException,
        BaseHook,
    )

    connection = BaseHook.get_connection(conn_id)
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
    except (AirflowException, ImportError) as error:
        raise InvalidInputError(
            f"sql_conn_id {conn_id!r} has the type {connection.conn_type!r}, for which there is no hook "
            f"({error}). Install the provider of that database, for example "
            f"apache-airflow-providers-{connection.conn_type}."
        ) from error
    if not hasattr(hook, "get_conn") or not hasattr(hook, "get_records"):
        raise InvalidInputError(
            f"sql_conn_id {conn_id!r} has the type {connection.conn_type!r}, which is no database."
        )
    return hook.get_conn()


def _cursor(connection: Any) -> Any:
    """A server-side cursor where the driver's plain one would fetch all rows at once."""
    driver = type(connection).__module__.partition(".")[0]
    if driver in {"psycopg", "psycopg2"}:
        return connection.cursor("openai_batches")
    if driver in {"MySQLdb", "pymysql"}:
        return connection.cursor(importlib.import_module(f"{driver}.cursors").SSCursor)
    return connection.cursor()
