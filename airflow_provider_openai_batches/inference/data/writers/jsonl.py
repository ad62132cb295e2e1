"""
Parts as JSON lines: ``custom_id``, the kept columns, ``status``, ``output``, ``usage``, ``error``,
``finish_reason``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.api.usage import Usage
    from airflow_provider_openai_batches.inference.data.outcomes import RowError
    from airflow_provider_openai_batches.inference.data.results import Answer
    from airflow_provider_openai_batches.inference.data.writers.protocol import OpenPart


class _Tail(msgspec.Struct, frozen=True, gc=False):
    status: str
    output: Any
    usage: Usage | None
    error: RowError | None
    finish_reason: str | None


_encode_lines = msgspec.json.Encoder().encode_lines


class JsonLinesWriter:
    """Opens parts that hold one object per line."""

    suffix = ".jsonl"

    def __init__(self, *_job: object, **_options: object) -> None:
        """Take nothing from the job: its kept columns are JSON already."""

    @staticmethod
    def check() -> None:
        """Do nothing: nothing has to be installed."""

    @contextmanager
    def open(self, handle: BinaryIO) -> Iterator[OpenPart]:
        yield _JsonLinesPart(handle)


class _JsonLinesPart:
    def __init__(self, handle: BinaryIO) -> None:
        self._write = handle.write

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        tails = _encode_lines(
            [
                _Tail(
                    answer.outcome.status,
                    answer.output,
                    answer.usage,
                    answer.outcome.error,
                    answer.finish_reason,
                )
                for answer in answers
            ]
        ).splitlines(keepends=True)
        # The first columns are JSON already: both objects are joined, without decoding the one in front.
        lines = [b"%b,%b" % (row[:-2], tail[1:]) for row, tail in zip(rows, tails, strict=True)]
        self._write(b"".join(lines))
