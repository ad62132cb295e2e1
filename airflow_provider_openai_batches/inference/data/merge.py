"""Writes the results of all rounds as ordered parts: exactly one row for each row of the input."""

from __future__ import annotations

import os
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.usage import Usage, usage_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.findings import INVALID, NOTHING
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE, RowId
from airflow_provider_openai_batches.inference.data.lines import body_of, classify, read_line
from airflow_provider_openai_batches.inference.data.manifest import (
    MANIFEST_FILE,
    UNREADABLE_FILE,
    ErrorGroup,
    LiveUse,
    Merged,
    Part,
)
from airflow_provider_openai_batches.inference.data.outcomes import STATUSES, TOO_LATE, Outcome, RowError
from airflow_provider_openai_batches.inference.data.results import Answer, AnswerReader
from airflow_provider_openai_batches.inference.data.writers import WRITERS
from airflow_provider_openai_batches.storage import as_path, open_binary, remove, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.inference.data.writers.protocol import PartWriter
    from airflow_provider_openai_batches.storage import AnyPath

ROWS_PER_PART = 50_000
MAX_ERROR_CODES = 50
_OPEN_FILES = 64
_BLOCK_ROWS = 64
_Block: TypeAlias = tuple[list[bytes], list[Answer]]


def merge(
    index: ResultIndex,
    directory: AnyPath,
    *,
    output: str = "text",
    schema: OutputSchema | None = None,
    output_format: str = "jsonl",
    rows_per_part: int = ROWS_PER_PART,
) -> Merged:
    """
    Write ``part-00000.jsonl``, … in the order of the input; each part appears whole or not at all.

    The manifest of an earlier job is removed, and so are parts of other jobs: only a new manifest makes the
    directory complete again.

    :param output: ``"text"`` or ``"body"``, see :class:`AnswerReader`.
    :param output_format: one of :data:`WRITERS`.
    :raises InvalidInputError: if an argument is unknown, or the results of a shard are not in the index.
    """
    check_output(output, output_format, rows_per_part)
    index.check_complete()
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    remove(directory / MANIFEST_FILE)
    writer = WRITERS[output_format](index.job, index.work, whole_body=output == "body")
    reader = AnswerReader(spec_of(index.job.endpoint), output, schema)
    merged = Merged(counts=dict.fromkeys(STATUSES, 0))
    with _ResultFiles(index) as files:
        results = _Results(index, files, reader, merged)
        with open_binary(index.work / ROWS_FILE) as lines:
            for number, first in enumerate(range(0, index.job.rows, rows_per_part)):
                blocks = results.blocks(islice(lines, rows_per_part), first)
                merged.parts.append(_write_part(directory, number, writer, blocks))
        _add_superseded(index, files, merged)
        _keep_unreadable(index, files, directory)
        if index.live_files:
            merged.live = _live_use(index)
    merged.scan = index.scan
    _remove_others(directory, merged.parts)
    return merged


def read_first(index: ResultIndex, rows: int, *, schema: OutputSchema | None) -> tuple[Merged, list[_Block]]:
    """
    Read the answers to the first rows, and write nothing.

    :param rows: how many; all of them are in memory then.
    """
    merged = Merged(counts=dict.fromkeys(STATUSES, 0))
    reader = AnswerReader(spec_of(index.job.endpoint), "text", schema)
    with _ResultFiles(index) as files, open_binary(index.work / ROWS_FILE) as lines:
        return merged, list(_Results(index, files, reader, merged).blocks(islice(lines, rows), 0))


def check_output(output: str, output_format: str, rows_per_part: int = ROWS_PER_PART) -> None:
    """
    Check the arguments that :func:`merge` is going to get, before anything is spent.

    :raises InvalidInputError: if a value is unknown, or what the format needs is not installed.
    """
    if output not in {"text", "body"}:
        raise InvalidInputError(f"output is {output!r}: it must be 'text' or 'body'")
    if rows_per_part < 1:
        raise InvalidInputError(f"rows_per_part is {rows_per_part}: it must be 1 or more")
    if output_format not in WRITERS:
        known = " or ".join(map(repr, WRITERS))
        raise InvalidInputError(f"output_format is {output_format!r}: it must be {known}")
    WRITERS[output_format].check()


def _write_part(directory: AnyPath, number: int, writer: PartWriter, blocks: Iterator[_Block]) -> Part:
    name = f"part-{number:05d}{writer.suffix}"
    count = 0
    with whole(directory / name) as handle:
        with writer.open(handle) as part:
            for rows, answers in blocks:
                part.write(rows, answers)
                count += len(rows)
        size = handle.tell()
    return Part(file=name, rows=count, bytes=size)


class _Results(msgspec.Struct):
    """The rows of the job with their results, in order; counts and usage are added up in ``merged``."""

    index: ResultIndex
    files: _ResultFiles
    reader: AnswerReader
    merged: Merged

    def blocks(self, lines: Iterator[bytes], first: int) -> Iterator[_Block]:
        """
        :param lines: of ``rows.jsonl``.
        :param first: the number of the first one.
        """
        counts, usage = self.merged.counts, self.merged.usage
        while rows := list(islice(lines, _BLOCK_ROWS)):
            answers = list(map(self._answer, range(first, first + len(rows))))
            for row, answer in zip(rows, answers, strict=True):
                outcome = answer.outcome
                counts[outcome.status] += 1
                if answer.usage is not None:
                    usage.add(answer.usage)
                if answer.finish_reason is not None:
                    self.merged.truncated += 1
                if outcome.error is not None:
                    self._count(outcome.error, row)
            yield rows, answers
            first += len(rows)
            self.files.drop_before(first)

    def _answer(self, row: int) -> Answer:
        state, number, offset, length = self.index.location(row)
        if state == NOTHING:
            return Answer(self.index.nothing, None, None)
        if number in self.index.rejections:
            return Answer(Outcome("failed", error=self.index.rejections[number]), None, None)
        try:
            answer = self.reader.read_line(self.files.read(number, offset, length), answered=state >= INVALID)
        except (ValueError, msgspec.DecodeError) as error:
            raise InvalidInputError(
                f"{self.index.files[number]} was changed while its results were merged"
            ) from error
        is_too_late = answer.outcome.status == "cancelled" and self.index.nothing is TOO_LATE
        return Answer(TOO_LATE, None, None) if is_too_late else answer

    def _count(self, error: RowError, row: bytes) -> None:
        errors = self.merged.errors
        code = error.code if error.code in errors or len(errors) < MAX_ERROR_CODES else "other"
        group = errors.get(code)
        if group is None:
            errors[code] = ErrorGroup(1, error.message, msgspec.json.decode(row, type=RowId).custom_id)
        else:
            group.count += 1


class _ResultFiles:
    """Reads pieces of many files, and keeps only a few of them open."""

    def __init__(self, index: ResultIndex) -> None:
        self._index = index
        self._fetched: set[int] = set()
        self._open: OrderedDict[int, tuple[BinaryIO, int | None]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1][0].close()

    def read(self, number: int, offset: int, length: int) -> bytes:
        handle, descriptor = self._open.get(number) or self._opened(number)
        if descriptor is not None:
            return os.pread(descriptor, length, offset)
        handle.seek(offset)
        return handle.read(length)

    def drop_before(self, row: int) -> None:
        """Let the files go in which there is nothing about this row and those that follow."""
        self._drop([number for number in self._fetched if self._index.last_rows[number] < row])

    def read_all(self, flat: Any) -> Iterator[bytes]:
        """Yield pieces that are given as file, offset and length, one after the other; file after file."""
        last = None
        for number, offset, length in sorted(zip(flat[::3], flat[1::3], flat[2::3], strict=True)):
            if last not in {None, number}:
                self._drop([last])
            last = number
            yield self.read(number, offset, length)

    def _drop(self, numbers: list[Any]) -> None:
        for number in numbers:
            if number in self._open:
                self._open.pop(number)[0].close()
            self._fetched.discard(number)
            self._index.drop(self._index.files[number].name)

    def _opened(self, number: int) -> tuple[BinaryIO, int | None]:
        if len(self._open) == _OPEN_FILES:
            self._open.popitem(last=False)[1][0].close()
        path = self._index.files[number]
        if number not in self._fetched:
            self._index.fetch(path.name)
            self._fetched.add(number)
        handle = open_binary(path)
        try:
            descriptor = handle.fileno()
        except OSError:  # a file in a store has none
            descriptor = None
        self._open[number] = (handle, descriptor)
        return self._open[number]


def _add_superseded(index: ResultIndex, files: _ResultFiles, merged: Merged) -> None:
    """Add the usage of answers that were replaced by others: they were paid for too."""
    for data in files.read_all(index.superseded):
        line = read_line(data)
        usage = line and line.response and usage_of(body_of(line.response))
        if usage:
            merged.usage.add(usage)


def _live_use(index: ResultIndex) -> LiveUse:
    """Add up the live answers, also those that are not used: they were paid for too."""
    usage, spec = Usage(), spec_of(index.job.endpoint)
    for number in sorted(index.live_files):
        path = index.files[number]
        index.fetch(path.name)
        with open_binary(path) as lines:
            for line in filter(None, map(read_line, lines)):
                is_paid = line.response is not None and classify(line, spec).status == "succeeded"
                if is_paid and line.response and (used := usage_of(body_of(line.response))):
                    usage.add(used)
        index.drop(path.name)
    return LiveUse(rows=index.live_rows, usage=usage)


def _keep_unreadable(index: ResultIndex, files: _ResultFiles, directory: AnyPath) -> None:
    if not index.unreadable:
        remove(directory / UNREADABLE_FILE)
        return
    with whole(directory / UNREADABLE_FILE) as handle:
        for data in files.read_all(index.unreadable):
            handle.write(data.rstrip(b"\n") + b"\n")


def _remove_others(directory: AnyPath, parts: list[Part]) -> None:
    """Remove parts of other jobs, and what a killed process left of its own."""
    own = {part.file for part in parts}
    patterns = [f"part-*{writer.suffix}" for writer in WRITERS.values()]
    for pattern in [*patterns, ".part-*.part"]:
        for path in list(directory.glob(pattern)):
            if path.name not in own:
                remove(path)
