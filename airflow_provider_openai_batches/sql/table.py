"""Whether a table takes what is to be written to it, found out before anything is written or spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed, OpenAIBatchesError
from airflow_provider_openai_batches.sql.columns import check_row_columns, filling
from airflow_provider_openai_batches.sql.dialect import TableColumn, TableName
from airflow_provider_openai_batches.sql.kinds import TAKES
from airflow_provider_openai_batches.sql.loads import LoadsTable
from airflow_provider_openai_batches.sql.session import Session, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_openai_batches.sql.columns import Filled, Filling
    from airflow_provider_openai_batches.sql.dialect import Dialect
    from airflow_provider_openai_batches.sql.kinds import Kind

STAGE = "openai_batches_stage"
_MAX_PARTS = 2


class Target(msgspec.Struct, frozen=True):
    """
    The table to write to.

    :param columns: what the database says of the columns that are filled; empty if there is no table yet.
    :param names: of these columns, as the database spells them.
    :param key: as the database spells it.
    """

    name: TableName
    columns: tuple[TableColumn, ...]
    names: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def is_new(self) -> bool:
        return not self.columns


def check_table(
    conn_id: str,
    table: str,
    *,
    columns: Mapping[str, str] | None = None,
    mode: str = "upsert",
    key: str | Sequence[str] | None = "custom_id",
    output_schema: Any = None,
    row_columns: Iterable[str] | None = None,
    create_table: bool = True,
) -> None:
    """
    Make sure that a table is going to take the results of a job, before the job costs anything.

    Nothing is changed: what can be undone is tried, and undone.

    :param row_columns: the columns that the job keeps; None if they are not known.
    :raises InvalidInputError: if the table does not fit, or cannot be made.
    """
    wanted = filling(columns, key=key, mode=mode, statuses=("succeeded",), output_schema=output_schema)
    if row_columns is not None:
        wanted = msgspec.structs.replace(wanted, columns=check_row_columns(wanted.columns, row_columns))
    with Session(conn_id) as session:
        try:
            target = inspect(session, table, wanted, may_create=create_table)
            session.rollback()
        except session.error as error:
            raise _unusable(session, table, error) from error
        _rehearse(session, table, target, wanted)


def table_name(table: str, dialect: Dialect) -> TableName:
    """
    Read ``table`` or ``schema.table``.

    :raises InvalidInputError: if the database can have no such name.
    """
    parts = table.split(".") if isinstance(table, str) else []
    if not 1 <= len(parts) <= _MAX_PARTS:
        raise InvalidInputError(f"table is {table!r:.100}: it must be 'table' or 'schema.table'")
    for part in parts:
        dialect.check_name(part, "table")
    return TableName(parts[0] if len(parts) == _MAX_PARTS else None, parts[-1])


def inspect(session: Session, table: str, wanted: Filling, *, may_create: bool) -> Target:
    """
    Read what the database says of a table, and compare it with what is to be written.

    :raises InvalidInputError: names what does not fit.
    """
    dialect = session.dialect
    name = table_name(table, dialect)
    for column in wanted.columns:
        dialect.check_name(column.name, "A column of the table")
    _check_no_doubles(wanted, dialect)
    found = dialect.columns(session.run, name)
    if not found:
        if not may_create or not dialect.can_create:
            why = "create_table is off" if dialect.can_create else "this database's types are not known"
            raise InvalidInputError(
                f"There is no table {name} in {session.conn_id!r}, and none is made: {why}"
            )
        return Target(name, (), tuple(wanted.names), wanted.key)
    if refusal := dialect.refusal(session.run, name):
        raise InvalidInputError(f"The table {name} cannot be used: {refusal}")
    by_name = {dialect.folded(column.name): column for column in found}
    columns = tuple(_matching(column, by_name, name, dialect) for column in wanted.columns)
    filled = {column.name for column in columns}
    if lacking := [column.name for column in found if column.is_required and column.name not in filled]:
        raise InvalidInputError(
            f"The table {name} needs a value for {', '.join(lacking)} in each row (NOT NULL, no default), "
            "and columns names none"
        )
    spelled = tuple(by_name[dialect.folded(key)].name for key in wanted.key)
    if wanted.mode == "upsert":
        _check_unique(dialect.uniques(session.run, name), spelled, filled, name, dialect)
    return Target(name, columns, tuple(column.name for column in columns), spelled)


def inspect_alone(session: Session, table: str, wanted: Filling) -> Target:
    """Look again for a table that was missing, after others who are making one."""
    if lock := session.dialect.lock_for_creation():
        session.run(lock)
    return inspect(session, table, wanted, may_create=True)


def _check_no_doubles(wanted: Filling, dialect: Dialect) -> None:
    seen: dict[str, str] = {}
    for name in wanted.names:
        if other := seen.get(dialect.folded(name)):
            raise InvalidInputError(f"columns names one column of the table twice: {other!r} and {name!r}")
        seen[dialect.folded(name)] = name


def _matching(
    wanted: Filled, by_name: Mapping[str, TableColumn], table: TableName, dialect: Dialect
) -> TableColumn:
    found = by_name.get(dialect.folded(wanted.name))
    if found is None:
        raise InvalidInputError(
            f"The table {table} has no column {wanted.name!r}; it has "
            f"{', '.join(column.name for column in by_name.values())}. Add the column, or change columns"
        )
    if found.is_computed:
        raise InvalidInputError(f"The column {wanted.name!r} of {table} is computed, and takes no value")
    if wanted.kind is not None and wanted.kind not in TAKES[found.kind]:
        raise InvalidInputError(
            f"The column {wanted.name!r} of {table} has the type {found.type}, which does not take "
            f"{wanted.source!r}: by output_schema that is {wanted.kind}"
        )
    return found


def _check_unique(
    uniques: list[frozenset[str]] | None,
    key: Sequence[str],
    filled: set[str],
    table: TableName,
    dialect: Dialect,
) -> None:
    if uniques is None:
        return
    if frozenset(key) not in uniques:
        raise InvalidInputError(
            f"The table {table} has no primary key or unique constraint on {', '.join(key)}, which "
            f"mode='upsert' needs. Add one (ALTER TABLE {dialect.table(table)} ADD PRIMARY KEY "
            f"({dialect.joined(key)})), or use another key or mode"
        )
    others = [unique for unique in uniques if unique != frozenset(key) and unique <= filled]
    if others and dialect.upserts_by_any_key:
        raise InvalidInputError(
            f"The table {table} has another unique key, on {', '.join(sorted(others[0]))}. This database's "
            "upsert goes by all keys, so a row could replace one that has another key. Use another mode or "
            "table"
        )


def create(session: Session, target: Target, kinds: Mapping[str, Kind], *, mode: str) -> None:
    """Make the table, with a primary key if rows are going to replace others."""
    key = target.key if mode == "upsert" else ()
    columns = [(name, kinds[name]) for name in target.names]
    session.run(session.dialect.create(target.name, columns, key))


def _rehearse(session: Session, table: str, target: Target, wanted: Filling) -> None:
    """Do all that the load is going to do, without a row, and undo it: that shows what rights are missing."""
    dialect = session.dialect
    if target.is_new and not dialect.has_transactional_ddl:
        return
    try:
        session.begin()
    except session.error as error:
        raise LoadFailed(f"The database of {session.conn_id!r} is busy: {said(error)}") from error
    try:
        if target.is_new:
            target = inspect_alone(session, table, wanted)
        if wanted.mode == "append" and dialect.has_transactional_ddl:
            LoadsTable(session, target.name).create(is_target_new=target.is_new)
        if target.is_new:
            kinds = {column.name: column.kind or "text" for column in wanted.columns}
            create(session, target, kinds, mode=wanted.mode)
        elif wanted.mode == "upsert":
            session.run(dialect.stage(STAGE, target.name, target.names))
            for statement in dialect.merge(target.name, STAGE, target.names, target.key):
                session.run(statement)
        else:
            own, names = dialect.table(target.name), dialect.joined(target.names)
            session.run(f"INSERT INTO {own} ({names}) SELECT {names} FROM {own} WHERE 1 = 0")
        session.rollback()
    except session.error as error:
        raise _unusable(session, table, error) from error


def _unusable(session: Session, table: str, error: Exception) -> OpenAIBatchesError:
    if session.is_alive():
        return InvalidInputError(
            f"The table {table} in {session.conn_id!r} cannot be written to: {said(error)}"
        )
    return LoadFailed(f"The database of {session.conn_id!r} went away: {said(error)}")
