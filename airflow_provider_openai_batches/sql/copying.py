"""Rows into PostgreSQL by COPY, the quickest way that it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_provider_openai_batches.sql.session import Session

_BLOCK_BYTES = 1 << 18
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r"))  # the backslash comes first
_LINE = re.compile(r"COPY [^\n]*, line (\d+)")


def copy(session: Session, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
    """
    Write rows to a table.

    :param table: quoted, and so are the columns.
    """
    sql = f"COPY {table} ({columns}) FROM STDIN"
    blocks = _blocks(rows)
    with session.cursor() as cursor:
        if session.driver == "psycopg2":
            reader = _Reader(blocks)
            try:
                cursor.copy_expert(sql, reader, _BLOCK_BYTES)
            finally:
                if reader.failure is not None:  # the driver says no more than that there was one
                    raise reader.failure
            return
        with cursor.copy(sql) as target:
            for block in blocks:
                target.write(block)


def line_of(error: BaseException) -> int | None:
    """Return the number, from 1 on, of the row that PostgreSQL refuses; None if it names none."""
    found = _LINE.search(str(getattr(getattr(error, "diag", None), "context", None) or ""))
    return int(found[1]) if found else None


def _blocks(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2"""
    lines: list[str] = []
    size = 0
    for row in rows:
        line = "\t".join([value if type(value) is str else _field(value) for value in row])
        if "\\" in line or "\n" in line or "\r" in line or line.count("\t") >= len(row):
            line = "\t".join(map(_field, row))
        lines.append(line)
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield ("\n".join(lines) + "\n").encode()
            lines.clear()
            size = 0
    if lines:
        yield ("\n".join(lines) + "\n").encode()


def _field(value: Any) -> str:
    if type(value) is str:
        text: str = value
        if _SPECIAL.search(text):
            for sign, escaped in _ESCAPES:  # str.translate takes ten times as long
                text = text.replace(sign, escaped)
        return text
    if value is None:
        return r"\N"
    return ("t" if value else "f") if isinstance(value, bool) else repr(value)


class _Reader:
    """A file of blocks, as psycopg2 wants it."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            try:
                self._rest = next(self._blocks, b"")
            except Exception as error:
                self.failure = error
                raise
        block, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return block
