"""
Parts as JSON lines: ``custom_id``, the kept columns, ``status``, ``output``, ``usage``, ``error``,
``finish_reason``, and where rows may share their answers ``source``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.api.usage import Usage
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.outcomes import RowError
    from airflow_provider_openai_batches.inference.data.results import Answer
    from airflow_provider_openai_batches.inference.data.writers.protocol import Columns, OpenPart
    from airflow_provider_openai_batches.storage import AnyPath


class _Tail(msgspec.Struct, frozen=True, gc=False):
    status: str
    output: Any
    usage: Usage | None
    error: RowError | None
    finish_reason: str | None


class _TailWithSource(_Tail, frozen=True, gc=False):
    source: str | None


_encode_lines = msgspec.json.Encoder().encode_lines


class JsonLinesWriter:
    """Opens parts that hold one object per line."""

    suffix = ".jsonl"

    def __init__(self, _job: Job, _work: AnyPath, columns: Columns) -> None:
        """Take nothing from the job: its kept columns are JSON already."""
        self._has_source = columns.has_source

    @staticmethod
    def check() -> None:
        """Do nothing: nothing has to be installed."""

    @contextmanager
    def open(self, handle: BinaryIO) -> Iterator[OpenPart]:
        yield _JsonLinesPart(handle, _tail_with_source if self._has_source else _tail)


def _tail(answer: Answer) -> _Tail:
    outcome = answer.outcome
    return _Tail(outcome.status, answer.output, answer.usage, outcome.error, answer.finish_reason)


def _tail_with_source(answer: Answer) -> _Tail:
    outcome, more = answer.outcome, (answer.finish_reason, answer.source)
    return _TailWithSource(outcome.status, answer.output, answer.usage, outcome.error, *more)


class _JsonLinesPart:
    def __init__(self, handle: BinaryIO, tail_of: Callable[[Answer], _Tail]) -> None:
        self._write, self._tail_of = handle.write, tail_of

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        tails = _encode_lines(map(self._tail_of, answers)).splitlines(keepends=True)
        # The first columns are JSON already: both objects are joined, without decoding the one in front.
        lines = [b"%b,%b" % (row[:-2], tail[1:]) for row, tail in zip(rows, tails, strict=True)]
        self._write(b"".join(lines))
