"""One connection to a database, as Airflow's hook for it gives it."""

from __future__ import annotations

import importlib
from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_openai_batches.exceptions import LoadFailed
from airflow_provider_openai_batches.sql.database import database_of
from airflow_provider_openai_batches.sql.dialects import dialect_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

_SHOWN = 500
_COPIES = frozenset({"psycopg", "psycopg2"})


class Session:
    """
    A connection that is closed when its context ends; what was not committed is undone then.

    :param conn_id: an Airflow connection to a database.
    :raises InvalidInputError: as :func:`database_of` does.
    """

    def __init__(self, conn_id: str) -> None:
        kind, hook = database_of(conn_id)
        self.conn_id = conn_id
        self.dialect = dialect_of([str(getattr(hook, "dialect_name", "")), kind])
        self.placeholder = str(getattr(hook, "placeholder", "%s"))
        self.connection = _connected(hook, conn_id)
        try:
            if getattr(hook, "supports_autocommit", False):
                hook.set_autocommit(self.connection, False)
            self.dialect.prepare(self.connection)
        except Exception as error:
            self.close()
            raise _unreachable(conn_id, error) from error
        self._has_begun = False
        self.driver, self.error = _driver_of(self.connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(Exception):  # a connection that broke off cannot be closed either
            self.connection.close()

    @property
    def can_copy(self) -> bool:
        """Whether it takes rows by PostgreSQL's COPY."""
        return self.driver in _COPIES and type(self.dialect).__name__ == "PostgreSQL"

    def begin(self) -> None:
        self.rollback()
        if self.dialect.begin:
            self.run(self.dialect.begin)
        self._has_begun = True

    def commit(self) -> None:
        self.connection.commit()
        self._has_begun = False

    def rollback(self) -> None:
        """Undo what was not committed, also in a transaction that the driver began by itself."""
        if self._has_begun or not self.dialect.begin:
            self.connection.rollback()
        self._has_begun = False

    def is_alive(self) -> bool:
        """Undo what was not committed, and say whether the database still answers."""
        try:
            self.rollback()
            self.run("SELECT 1")
            self.rollback()
        except self.error:
            return False
        return True

    def cursor(self) -> AbstractContextManager[Any]:
        return closing(self.connection.cursor()) if self.dialect.has_cursors else nullcontext(self.connection)

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, with ``?`` for each parameter, and return its rows; none if it has none."""
        if parameters:
            sql = sql.replace("?", self.placeholder)
        with self.cursor() as cursor:
            cursor.execute(sql, parameters) if parameters else cursor.execute(sql)
            return [] if cursor.description is None else [_tuple(row) for row in cursor.fetchall()]

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement, with ``?`` for each parameter, for each of these rows."""
        with self.cursor() as cursor:
            cursor.executemany(sql.replace("?", self.placeholder), rows)


def _connected(hook: Any, conn_id: str) -> Any:
    try:
        return hook.get_conn()
    except Exception as error:
        raise _unreachable(conn_id, error) from error


def _unreachable(conn_id: str, error: Exception) -> LoadFailed:
    return LoadFailed(f"The database of {conn_id!r} cannot be reached: {said(error)}")


def said(error: BaseException) -> str:
    """Return what a driver says, on one line."""
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__


def _driver_of(connection: Any) -> tuple[str, type[Exception]]:
    """Return the driver's name, and what it raises by DB-API; its connections may lie in a deeper module."""
    name = ""
    for part in type(connection).__module__.lstrip("_").split("."):
        name = f"{name}.{part}".lstrip(".")
        error = getattr(importlib.import_module(name), "Error", None)
        if error is not None:
            return name, error
    return name, Exception


def _tuple(row: Any) -> tuple[Any, ...]:
    """Some connections are set up for cursors whose rows are dicts."""
    return tuple(row.values()) if isinstance(row, dict) else tuple(row)
