"""The formats of the parts: JSON lines here, Parquet in :mod:`~.parquet`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from airflow_provider_openai_batches.job.answers import Answer, Usage
    from airflow_provider_openai_batches.job.results import RowError


class Part(Protocol):
    """A part that is being written."""

    def write(self, row: bytes, answer: Answer) -> None:
        """
        Add a row.

        :param row: its first columns, a line of ``rows.jsonl``.
        """


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

    def write(self, row: bytes, answer: Answer) -> None:
        outcome = answer.outcome
        tail = _encode(_Tail(outcome.status, answer.output, answer.usage, outcome.error))
        # The first columns are JSON already: both objects are joined, without decoding the one in front.
        self._write(b"%b,%b\n" % (row[:-2], tail[1:]))
