"""Which loads were appended to tables of a database, noted in that database."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from airflow_provider_openai_batches.results import ResultRows
    from airflow_provider_openai_batches.sql.columns import Filling
    from airflow_provider_openai_batches.sql.dialect import TableName
    from airflow_provider_openai_batches.sql.session import Session

LOADS_TABLE = "openai_batches_loads"


def load_id_of(results: list[ResultRows], wanted: Filling) -> str:
    """Return what names a load: the same rows of the same jobs, for the same columns."""
    paths = sorted((column.name, column.source) for column in wanted.columns)
    manifests = [msgspec.json.encode(job.manifest) for job in results]
    known = msgspec.json.encode([paths, sorted(wanted.statuses)])
    return hashlib.sha256(b"\n".join([known, *sorted(manifests)])).hexdigest()


class LoadsTable:
    """The table that says which loads were appended; its rows are written together with those of a load."""

    def __init__(self, session: Session, target: TableName) -> None:
        self._session, self._target = session, target.name
        self._name = target.beside(LOADS_TABLE)
        self._table = session.dialect.table(self._name)

    def create(self, *, is_target_new: bool) -> None:
        """Make it; a table that is made anew has no loads."""
        lock = None if self._exists() else self._session.dialect.lock_for_creation()
        if lock is not None:
            self._session.run(lock)
        if not self._exists():
            self._session.run(
                f"{self._session.dialect.create_table} {self._table} (table_name VARCHAR(255) NOT NULL, "
                "load_id VARCHAR(64) NOT NULL, row_count BIGINT, loaded_at VARCHAR(40), PRIMARY KEY "
                "(table_name, load_id))"
            )
        if is_target_new:
            self._session.run(f"DELETE FROM {self._table} WHERE table_name = ?", self._target)

    def _exists(self) -> bool:
        return bool(self._session.dialect.columns(self._session.run, self._name))

    def find(self, load_id: str) -> int | None:
        """Return how many rows a load had; None if there was none."""
        rows = self._session.run(
            f"SELECT row_count FROM {self._table} WHERE table_name = ? AND load_id = ?",
            self._target,
            load_id,
        )
        return int(rows[0][0]) if rows else None

    def add(self, load_id: str) -> None:
        """Note a load that begins; the rows of this table are unique."""
        self._session.run(
            f"INSERT INTO {self._table} (table_name, load_id, row_count, loaded_at) VALUES (?, ?, ?, ?)",
            self._target,
            load_id,
            0,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def note_rows(self, load_id: str, rows: int) -> None:
        self._session.run(
            f"UPDATE {self._table} SET row_count = ? WHERE table_name = ? AND load_id = ?",
            rows,
            self._target,
            load_id,
        )
