"""Rows into one table of a database, and the name of the row that it refuses."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_openai_batches.sql import copying
from airflow_provider_openai_batches.sql.columns import NOTHING_WRITTEN, Misfit
from airflow_provider_openai_batches.sql.session import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_openai_batches.sql.session import Session
    from airflow_provider_openai_batches.sql.table import Target

Row: TypeAlias = tuple[str, list[Any]]

_CHUNK_ROWS = 1_000
_CHUNK_CHARACTERS = 4 << 20
_SAVEPOINT = "openai_batches_chunk"


class RowWriter:
    """
    Writes rows in the transaction of a session.

    :param target: the table that they are for.
    :param rows: begins to read them, custom_id and values; once, and again if one of them has to be named.
    """

    def __init__(self, session: Session, target: Target, rows: Callable[[], Iterator[Row]]) -> None:
        self._session, self._target, self._rows = session, target, rows
        self._names = session.dialect.joined(target.names)

    def write(self, table: str) -> None:
        """
        Write all rows to a table with the target's columns.

        :param table: its name, quoted.
        :raises Misfit: names the row that the database refuses.
        """
        if self._session.can_copy:
            self._copy(table)
            return
        marks = ", ".join("?" * len(self._target.names))
        insert = f"INSERT INTO {table} ({self._names}) VALUES ({marks})"
        for chunk in _chunks(self._rows()):
            self._insert(insert, chunk)

    def _copy(self, table: str) -> None:
        try:
            copying.copy(self._session, table, self._names, (values for _, values in self._rows()))
        except self._session.error as error:
            if (line := copying.line_of(error)) and is_about_values(self._session, error):
                custom_id, values = next(islice(self._rows(), line - 1, None))
                raise self._refused(custom_id, values, error) from error
            raise

    def _insert(self, insert: str, chunk: Sequence[Row]) -> None:
        session, can_go_back = self._session, self._session.dialect.has_savepoints
        if can_go_back:
            session.run(f"SAVEPOINT {_SAVEPOINT}")
        try:
            session.run_many(insert, [values for _, values in chunk])
        except session.error as error:
            if not is_about_values(session, error):
                raise
            if can_go_back:
                session.run(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
                self._insert_singly(insert, chunk)
            where = f"one of the rows {chunk[0][0]!r:.80} to {chunk[-1][0]!r:.80}"
            raise Misfit(
                f"The table {self._target.name} does not take {where}: {said(error)}. {NOTHING_WRITTEN}"
            ) from error
        if can_go_back:
            session.run(f"RELEASE SAVEPOINT {_SAVEPOINT}")

    def _insert_singly(self, insert: str, chunk: Sequence[Row]) -> None:
        """
        Find the row that is refused.

        :raises Misfit: names it.
        """
        for custom_id, values in chunk:
            try:
                self._session.run(insert, *values)
            except self._session.error as error:
                if is_about_values(self._session, error):
                    raise self._refused(custom_id, values, error) from error
                raise

    def _refused(self, custom_id: str, values: Sequence[Any], error: Exception) -> Misfit:
        key = [(name, values[self._target.names.index(name)]) for name in self._target.key]
        pairs = ", ".join(f"{name}={value!r:.80}" for name, value in key)
        return Misfit(
            f"The table {self._target.name} does not take the row {custom_id!r:.80} ({pairs}): "
            f"{said(error)}. {NOTHING_WRITTEN}"
        )


def is_about_values(session: Session, error: Exception) -> bool:
    """Whether another try with the same rows would be refused too, by the classes of DB-API or by a code."""
    names = {kind.__name__ for kind in type(error).__mro__}
    code = error.args[0] if error.args else None
    return bool(names & {"DataError", "IntegrityError"}) or code in session.dialect.codes_of_values


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += sum(len(value) for value in row[1] if isinstance(value, str))
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
