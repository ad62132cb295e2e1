"""
Loads results into a table, once, whatever dies on the way.

All rows come in one transaction, so the table is as it was before until all of them are there, and an end of
this process, of the connection or of the database leaves nothing. A load that is repeated finds: with
``upsert`` the rows of the same keys, and replaces them by the same values; with ``replace`` a table that it
empties in the same transaction; with ``append`` a line in the table ``openai_batches_loads`` that was written
in the same transaction, and then writes nothing. ``upsert`` and ``replace`` need no such line, so only
``append`` makes that table.

Rows go straight into the table, but for an upsert into one that has rows: they go into a temporary table
first, so that their keys can be compared, and other writers wait for one statement rather than for the whole
load. ``DbApiHook.insert_rows`` is not used: it ends the transaction after each thousand rows, makes text of
all values, and logs rows that are refused.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed, OpenAIBatchesError
from airflow_provider_openai_batches.sql.columns import (
    Misfit,
    RowValues,
    check_row_columns,
    find_kinds,
)
from airflow_provider_openai_batches.sql.insert import RowWriter, is_about_values
from airflow_provider_openai_batches.sql.kinds import converter
from airflow_provider_openai_batches.sql.loads import LoadsTable, load_id_of
from airflow_provider_openai_batches.sql.session import Session, said
from airflow_provider_openai_batches.sql.table import STAGE, create, inspect, inspect_alone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_openai_batches.results import ResultRows
    from airflow_provider_openai_batches.sql.columns import Filling
    from airflow_provider_openai_batches.sql.kinds import Kind
    from airflow_provider_openai_batches.sql.table import Target

_NAMED = 3  # rows with one key


class Loaded(msgspec.Struct, frozen=True):
    """
    What a load did.

    :param rows: how many rows of the results are in the table.
    :param before: whether an earlier try had written them.
    """

    rows: int
    before: bool = False


def load(
    results: list[ResultRows], conn_id: str, table: str, wanted: Filling, *, create_table: bool = True
) -> Loaded:
    """
    Write the rows of finished jobs to a table, all of them or none.

    :raises InvalidInputError: if the table does not fit, or a value does not; nothing was written.
    :raises LoadFailed: if the database refused or went away; the next try writes all rows once.
    """
    columns = wanted.columns
    for job in results:
        columns = check_row_columns(columns, next(iter(job), {}) or [column.path[0] for column in columns])
    wanted = msgspec.structs.replace(wanted, columns=columns)
    with Session(conn_id) as session:
        try:
            return _Load(session, table, wanted, results).run(may_create=create_table)
        except OpenAIBatchesError:
            raise
        except session.error as error:
            raise LoadFailed(
                f"The database of {conn_id!r} ended the load: {said(error)}. Nothing of it is in {table}; "
                "the next try writes all rows"
            ) from error


class _Load:
    """One load, in one transaction."""

    def __init__(self, session: Session, table: str, wanted: Filling, results: list[ResultRows]) -> None:
        self._session, self._dialect = session, session.dialect
        self._table, self._wanted, self._results = table, wanted, results
        self._count = 0

    def run(self, *, may_create: bool) -> Loaded:
        is_made = self._begin(may_create=may_create)
        loads = self._loads(self._target) if self._wanted.mode == "append" else None
        load_id = load_id_of(self._results, self._wanted)
        if loads and (rows := self._rows_before(loads, load_id)) is not None:
            return Loaded(rows, before=True)
        if self._wanted.mode == "upsert" and not is_made:
            self._upsert()
        else:
            self._fill()
        if loads:
            loads.note_rows(load_id, self._count)
        self._commit()
        return Loaded(self._count)

    def _rows_before(self, loads: LoadsTable, load_id: str) -> int | None:
        """Note this load, and return None; or return how many rows an earlier try of it wrote."""
        if (rows := loads.find(load_id)) is None:
            try:
                loads.add(load_id)  # it comes before the rows, and waits for another try that is at work
            except self._session.error as error:
                self._session.rollback()
                if not is_about_values(self._session, error) or (rows := loads.find(load_id)) is None:
                    raise
        if rows is not None:
            self._session.rollback()
        return rows

    def _begin(self, *, may_create: bool) -> bool:
        """Begin the transaction, and return whether the table is made in it, so that nobody else sees it."""
        session, is_made = self._session, False
        target = inspect(session, self._table, self._wanted, may_create=may_create)
        session.rollback()
        kinds = find_kinds(self._wanted, self._results) if target.is_new else {}
        if self._dialect.has_transactional_ddl:
            session.begin()
            if target.is_new:
                target = inspect_alone(session, self._table, self._wanted)
            is_made = target.is_new
        self._create(target, kinds)
        if not self._dialect.has_transactional_ddl:
            session.begin()
        self._set_target(inspect(session, self._table, self._wanted, may_create=False))
        return is_made

    def _create(self, target: Target, kinds: Mapping[str, Kind]) -> None:
        """Make what is missing. A table that is there has no loads of an earlier one of its name."""
        if self._wanted.mode == "append":
            self._loads(target).create(is_target_new=target.is_new)
        if target.is_new:
            create(self._session, target, kinds, mode=self._wanted.mode)

    def _loads(self, target: Target) -> LoadsTable:
        return LoadsTable(self._session, target.name)

    def _set_target(self, target: Target) -> None:
        self._target = target
        self._own = self._dialect.table(target.name)
        dialect = self._dialect
        converters = [
            converter(
                column.kind, column.bounds, has_booleans=dialect.has_booleans, has_zones=dialect.has_zones
            )
            for column in target.columns
        ]
        needed = {
            own.name
            for own, column in zip(self._wanted.columns, target.columns, strict=True)
            if column.is_required or column.name in target.key
        }
        self._values = RowValues(self._wanted, converters, needed)
        self._writer = RowWriter(self._session, target, self._rows)

    def _fill(self) -> None:
        is_replaced = self._wanted.mode == "replace"
        if is_replaced:
            if lock := self._dialect.lock(self._target.name):
                self._session.run(lock)
            self._session.run(f"DELETE FROM {self._own}")
        self._writer.write(self._own)
        rows = sum(map(len, self._results))
        has_success = any(job.counts.get("succeeded") for job in self._results)
        if (
            is_replaced
            and not self._count
            and rows
            and not has_success
            and "succeeded" in self._wanted.statuses
        ):
            raise InvalidInputError(
                f"Not one of {rows:,} rows succeeded: {self._target.name} is left as it was, not emptied"
            )

    def _upsert(self) -> None:
        session, dialect, target = self._session, self._dialect, self._target
        session.run(dialect.stage(STAGE, target.name, target.names))
        stage = dialect.quoted(STAGE)
        self._writer.write(stage)
        self._check_keys(stage)
        try:
            for statement in dialect.merge(target.name, STAGE, target.names, target.key):
                session.run(statement)
        except session.error as error:
            if is_about_values(session, error):
                raise Misfit(f"The table {target.name} does not take the rows: {said(error)}") from error
            raise
        session.run(f"{dialect.drop_stage} {stage}")

    def _check_keys(self, stage: str) -> None:
        by_name = {column.name: column.path for column in self._wanted.columns}
        if len(self._results) == 1 and ("custom_id",) in [by_name[name] for name in self._wanted.key]:
            return  # each row of a job has an id of its own
        key = self._dialect.joined(self._target.key)
        double = f"SELECT {key} FROM {stage} GROUP BY {key} HAVING COUNT(*) > 1 LIMIT 1"
        if found := self._session.run(double):
            raise self._double_key(list(found[0]))

    def _double_key(self, values: Sequence[Any]) -> Misfit:
        places = [self._target.names.index(name) for name in self._target.key]
        wanted = [str(value) for value in values]
        rows = (found for found in self._rows() if [str(found[1][place]) for place in places] == wanted)
        named = ", ".join(custom_id for custom_id, _ in islice(rows, _NAMED))
        pairs = ", ".join(
            f"{name}={value!r:.80}" for name, value in zip(self._target.key, values, strict=True)
        )
        return Misfit(
            f"The key is not unique: {pairs} is that of the rows {named or '?'}. Nothing was written; use "
            "another key, or mode='append'"
        )

    def _commit(self) -> None:
        try:
            self._session.commit()
        except self._session.error as error:
            raise LoadFailed(
                f"The database of {self._session.conn_id!r} went away as the load was committed: "
                f"{said(error)}. {self._target.name} has all of its rows or none; the next try leaves it "
                "with all, once"
            ) from error

    def _rows(self) -> Iterator[tuple[str, list[Any]]]:
        """
        Yield custom_id and values of each row, as the columns take them.

        :raises Misfit: for a value that its column does not take.
        """
        self._count = 0
        for found in self._values.read(self._results):
            self._count += 1
            yield found
