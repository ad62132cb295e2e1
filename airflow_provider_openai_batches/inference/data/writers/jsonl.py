"""The formats of the parts: JSON lines here, Parquet in :mod:`~.parquet`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from airflow_provider_openai_batches.inference.data.answers import Answer, Usage
    from airflow_provider_openai_batches.inference.data.results import RowError


class Part(Protocol):
    """A part that is being written."""

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        """
        Add some rows.

        :param rows: their first columns, lines of ``rows.jsonl``.
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


_encode_lines = msgspec.json.Encoder().encode_lines


class JsonLines:
    """``custom_id``, the kept columns, ``status``, ``output``, ``usage``, ``error``: one object a line."""

    suffix = ".jsonl"

    @contextmanager
    def open(self, handle: BinaryIO) -> Iterator[Part]:
        yield _JsonPart(handle)


class _JsonPart:
    def __init__(self, handle: BinaryIO) -> None:
        self._write = handle.write

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        tails = _encode_lines(
            [
                _Tail(answer.outcome.status, answer.output, answer.usage, answer.outcome.error)
                for answer in answers
            ]
        ).splitlines(keepends=True)
        # The first columns are JSON already: both objects are joined, without decoding the one in front.
        lines = [b"%b,%b" % (row[:-2], tail[1:]) for row, tail in zip(rows, tails, strict=True)]
        self._write(b"".join(lines))
