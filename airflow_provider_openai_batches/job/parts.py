"""The formats of the parts: JSON lines here, Parquet in :mod:`~.parquet`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from airflow_provider_openai_batches.job.answers import Usage
    from airflow_provider_openai_batches.job.results import RowError


class ResultRow(msgspec.Struct, frozen=True, gc=False):
    """
    A row of the results.

    :param custom_id: as JSON.
    :param kept: the kept columns, as a JSON object.
    :param output: JSON values, or ``msgspec.Raw`` at any depth.
    """

    custom_id: msgspec.Raw
    kept: msgspec.Raw
    status: str
    output: Any
    usage: Usage | None
    error: RowError | None


class Part(Protocol):
    """A part that is being written."""

    def write(self, row: ResultRow) -> None: ...


class Format(Protocol):
    """Opens parts, all with the same columns."""

    suffix: str

    def open(self, handle: BinaryIO) -> AbstractContextManager[Part]: ...


class _Tail(msgspec.Struct, frozen=True, gc=False):
    status: str
    output: Any
    usage: Usage | None
    error: RowError | None


_encode = msgspec.json.Encoder().encode


class JsonLines:
    """``custom_id``, the kept columns, ``status``, ``output``, ``usage``, ``error``: one object a line."""

    suffix = ".jsonl"

    @contextmanager
    def open(self, handle: BinaryIO) -> Iterator[Part]:
        yield _JsonPart(handle)


class _JsonPart:
    def __init__(self, handle: BinaryIO) -> None:
        self._write = handle.write

    def write(self, row: ResultRow) -> None:
        # The first columns are JSON already: they are put in front, not decoded and encoded again.
        tail = _encode(_Tail(row.status, row.output, row.usage, row.error))
        kept = bytes(row.kept)[1:-1]
        self._write(b'{"custom_id":%b,%b%b%b\n' % (row.custom_id, kept, b"," if kept else b"", tail[1:]))
