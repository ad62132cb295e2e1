"""Rows of a job that come from a database query."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.sql.database import database_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SQL_CHUNK = 2_000


def rows_of_query(sql: str, conn_id: str) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of a query as dicts, fetched in chunks.

    :param conn_id: an Airflow connection whose hook gives a DB-API connection.
    :raises InvalidInputError: if the connection has no such hook, or the query returns no columns.
    """
    _, hook = database_of(conn_id)
    with closing(hook.get_conn()) as connection, closing(_cursor(connection)) as cursor:
        cursor.execute(sql)
        rows = cursor.fetchmany(SQL_CHUNK)  # a server-side cursor has no column names before this
        if cursor.description is None:
            raise InvalidInputError("The query in sql returns no rows: it must be a SELECT.")
        names = [column[0] for column in cursor.description]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInputError(
                f"The query in sql has two columns named {', '.join(repeated)}: rename one with AS."
            )
        while rows:
            for row in rows:
                yield _named(names, row)
            rows = cursor.fetchmany(SQL_CHUNK)


def _named(names: list[str], row: Any) -> dict[str, Any]:
    """Some connections are set up for cursors whose rows are dicts, and some for objects."""
    if isinstance(row, Mapping):
        return dict(row)
    try:
        return dict(zip(names, () if isinstance(row, str | bytes) else row, strict=True))
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"The cursors of sql_conn_id give a row as {type(row).__name__}, which does not name the columns "
            f"{', '.join(names)}: set the connection up for tuples or dicts."
        ) from None


def _cursor(connection: Any) -> Any:
    """Open a server-side cursor where the driver's default cursor would fetch all rows at once."""
    driver = type(connection).__module__.partition(".")[0]
    if driver in {"psycopg", "psycopg2"}:
        return connection.cursor("openai_batches")
    if driver in {"MySQLdb", "pymysql"}:
        return connection.cursor(importlib.import_module(f"{driver}.cursors").SSCursor)
    return connection.cursor()
