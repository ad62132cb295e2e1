"""Writes the results of all rounds as ordered parts: exactly one row for each row of the input."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.usage import usage_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.findings import INVALID, NOTHING
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE, RowId
from airflow_provider_openai_batches.inference.data.lines import body_of, read_line
from airflow_provider_openai_batches.inference.data.manifest import (
    MANIFEST_FILE,
    OWN,
    SOURCES,
    UNREADABLE_FILE,
    ErrorGroup,
    LiveUse,
    Merged,
    Part,
)
from airflow_provider_openai_batches.inference.data.outcomes import (
    STATUSES,
    SUCCEEDED,
    TOO_LATE,
    Outcome,
    RowError,
)
from airflow_provider_openai_batches.inference.data.result_files import ResultFiles
from airflow_provider_openai_batches.inference.data.results import Answer, AnswerReader
from airflow_provider_openai_batches.inference.data.row_models import RowModels
from airflow_provider_openai_batches.inference.data.spending import model_in
from airflow_provider_openai_batches.inference.data.writers import WRITERS
from airflow_provider_openai_batches.inference.data.writers.outputs import vector_size
from airflow_provider_openai_batches.inference.data.writers.protocol import Columns
from airflow_provider_openai_batches.pricing.cost import Bill
from airflow_provider_openai_batches.pricing.prices import NO_PRICES
from airflow_provider_openai_batches.storage import (
    as_path,
    make_directory,
    names_in,
    open_binary,
    remove,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.inference.data.writers.protocol import PartWriter
    from airflow_provider_openai_batches.pricing.cost import Way
    from airflow_provider_openai_batches.pricing.prices import Prices
    from airflow_provider_openai_batches.storage import AnyPath

ROWS_PER_PART = 50_000
MAX_ERROR_CODES = 50
_BLOCK_ROWS = 64
_LOOKED_AT = 100  # answers, for the size of vectors
_Block: TypeAlias = tuple[list[bytes], list[Answer]]


def merge(
    index: ResultIndex,
    directory: AnyPath,
    *,
    output: str = "text",
    schema: OutputSchema | None = None,
    output_format: str = "jsonl",
    rows_per_part: int = ROWS_PER_PART,
    prices: Prices = NO_PRICES,
    has_source: bool = False,
    reusable: bytearray | None = None,
    typed_output: bool = False,
) -> Merged:
    """
    Write ``part-00000.jsonl``, … in the order of the input; each part appears whole or not at all.

    The manifest of an earlier job is removed, and so are parts of other jobs: only a new manifest makes the
    directory complete again.

    :param output: ``"text"`` or ``"body"``, see :class:`AnswerReader`.
    :param output_format: one of :data:`WRITERS`.
    :param prices: what tokens cost; without them the cost is unknown.
    :param has_source: whether the rows say where their results are from.
    :param reusable: is set to 1 for each row whose answer this job asked for, and others may use.
    :param typed_output: whether outputs have the type of the schema, and vectors a fixed size.
    :raises InvalidInputError: if an argument is unknown, or the results of a shard are not in the index.
    """
    check_output(output, output_format, rows_per_part)
    index.check_complete()
    directory = as_path(directory)
    make_directory(directory)
    before = names_in(directory)
    if MANIFEST_FILE in before:
        remove(directory / MANIFEST_FILE)
    columns = Columns(whole_body=output == "body", has_source=has_source, is_typed=typed_output)
    reader = AnswerReader(spec_of(index.job.endpoint), output, schema)
    merged = Merged(counts=dict.fromkeys(STATUSES, 0))
    if has_source:
        merged.sources = dict.fromkeys(SOURCES, 0)
    with ResultFiles(index) as files:
        bill, models = Bill(prices), RowModels(index.job, index.work)
        results = _Results(index, files, reader, merged, bill, models, reusable)
        if typed_output:
            kind = None if schema is None else schema.output_type
            size = results.vector_size()
            columns = msgspec.structs.replace(columns, vector_size=size, output_type=kind)
        writer = WRITERS[output_format](index.job, index.work, columns)
        with open_binary(index.work / ROWS_FILE) as lines:
            for number, first in enumerate(range(0, index.job.rows, rows_per_part)):
                blocks = results.blocks(islice(lines, rows_per_part), first)
                merged.parts.append(_write_part(directory, number, writer, blocks))
        results.add_superseded()
        if index.unreadable:
            _keep_unreadable(index, files, directory)
    results.sum_up()
    if index.live_files:
        share = prices.batch_discount
        merged.live = LiveUse(
            rows=index.live_rows,
            usage=results.bill.usage("live"),
            times_batch_price=1 / share if share else None,
        )
    merged.scan = index.scan
    kept = {part.file for part in merged.parts} | ({UNREADABLE_FILE} if index.unreadable else set())
    _remove_others(directory, before, kept)
    return merged


def read_first(
    index: ResultIndex, rows: int, *, schema: OutputSchema | None, prices: Prices = NO_PRICES
) -> tuple[Merged, list[_Block]]:
    """
    Read the answers to the first rows, and write nothing.

    :param rows: how many; all of them are in memory then.
    :param prices: what tokens cost.
    """
    merged = Merged(counts=dict.fromkeys(STATUSES, 0))
    reader = AnswerReader(spec_of(index.job.endpoint), "text", schema)
    with ResultFiles(index) as files, open_binary(index.work / ROWS_FILE) as lines:
        results = _Results(index, files, reader, merged, Bill(prices), RowModels(index.job, index.work), None)
        blocks = list(results.blocks(islice(lines, rows), 0))
        results.sum_up()
        return merged, blocks


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
    """The rows of the job with their results, in order; they are counted in ``merged`` and in the bill."""

    index: ResultIndex
    files: ResultFiles
    reader: AnswerReader
    merged: Merged
    bill: Bill
    models: RowModels
    reusable: bytearray | None

    def blocks(self, lines: Iterator[bytes], first: int) -> Iterator[_Block]:
        """
        :param lines: of ``rows.jsonl``.
        :param first: the number of the first one.
        """
        counts = self.merged.counts
        while rows := list(islice(lines, _BLOCK_ROWS)):
            numbers = range(first, first + len(rows))
            answers = list(map(self._answer, numbers))
            if self.index.stored_files or self.index.repeats or self.merged.sources is not None:
                answers = list(map(self._with_source, numbers, answers))
            for row, answer in zip(rows, answers, strict=True):
                outcome = answer.outcome
                counts[outcome.status] += 1
                if answer.finish_reason is not None:
                    self.merged.truncated += 1
                if outcome.error is not None:
                    self._count(outcome.error, row)
            yield rows, answers
            first += len(rows)
            self.files.drop_before(first)

    def _with_source(self, row: int, answer: Answer) -> Answer:
        """Say where the answer is from; what is no answer to a request of this row alone cost nothing."""
        source, sources = self.index.source(row), self.merged.sources
        if source is not None and sources is not None:
            sources[source] += 1
        is_own, is_whole = source in OWN, answer.outcome is SUCCEEDED and answer.finish_reason is None
        if is_own and is_whole and self.reusable is not None:
            self.reusable[row] = 1
        return msgspec.structs.replace(answer, source=source, usage=answer.usage if is_own else None)

    def _answer(self, row: int) -> Answer:
        state, number, _, _ = self.index.location(row)
        if state == NOTHING:
            return Answer(self.index.nothing, None, None)
        if number in self.index.rejections:
            return Answer(Outcome("failed", error=self.index.rejections[number]), None, None)
        try:
            answer = self.reader.read_line(self.files.read_of(row), answered=state >= INVALID)
        except (ValueError, msgspec.DecodeError) as error:
            raise InvalidInputError(
                f"{self.index.files[number]} was changed while its results were merged"
            ) from error
        self._charge(row, number, answer, is_paid=state >= INVALID)
        is_too_late = answer.outcome.status == "cancelled" and self.index.nothing is TOO_LATE
        return Answer(TOO_LATE, None, None) if is_too_late else answer

    def _charge(self, row: int, number: int, answer: Answer, *, is_paid: bool) -> None:
        """Add the tokens of an answer that this job asked for."""
        if number in self.index.stored_files or self.index.repeats.first_of(row) != row:
            return
        meter = self.bill.meter(self.models.of(row), "live" if number in self.index.live_files else "batch")
        if answer.usage is not None:
            meter.add(answer.usage)
        elif is_paid:  # whether it is valid or not
            meter.unmetered += 1

    def vector_size(self) -> int | None:
        """Return the size of the job's vectors, by the first of them; None if it asks for several sizes."""
        job = self.index.job
        if not spec_of(job.endpoint).gives_vectors or job.only_model is None or len(job.dimensions) > 1:
            return None
        places = (self.index.location(row) for row in range(job.rows))
        lines = (self.files.read(*place) for state, *place in places if state > INVALID)
        answers = islice((self.reader.read_line(line, answered=True) for line in lines), _LOOKED_AT)
        sizes = Counter(size for answer in answers if (size := vector_size(answer)))
        return max(sizes, key=lambda size: sizes[size], default=None)

    def add_superseded(self) -> None:
        """Add the tokens of answers that were replaced by others: they were paid for too."""
        for number, data in self.files.read_all(self.index.superseded):
            line = read_line(data)
            body = line and line.response and body_of(line.response)
            if not body:
                continue
            way: Way = "live" if number in self.index.live_files else "batch"
            meter = self.bill.meter(self.index.job.only_model or model_in(body), way)
            if usage := usage_of(body):
                meter.add(usage)
            else:
                meter.unmetered += 1

    def sum_up(self) -> None:
        """Note what all answers took."""
        self.merged.usage, self.merged.cost = self.bill.usage(), self.bill.cost()

    def _count(self, error: RowError, row: bytes) -> None:
        errors = self.merged.errors
        code = error.code if error.code in errors or len(errors) < MAX_ERROR_CODES else "other"
        group = errors.get(code)
        if group is None:
            errors[code] = ErrorGroup(1, error.message, msgspec.json.decode(row, type=RowId).custom_id)
        else:
            group.count += 1


def _keep_unreadable(index: ResultIndex, files: ResultFiles, directory: AnyPath) -> None:
    with whole(directory / UNREADABLE_FILE) as handle:
        for _, data in files.read_all(index.unreadable):
            handle.write(data.rstrip(b"\n") + b"\n")


def _remove_others(directory: AnyPath, before: list[str], kept: set[str]) -> None:
    """Remove what other jobs wrote, and what a killed process left of its own."""
    patterns = [*(f"part-*{writer.suffix}" for writer in WRITERS.values()), ".part-*.part", UNREADABLE_FILE]
    for name in before:
        if name not in kept and any(fnmatchcase(name, pattern) for pattern in patterns):
            remove(directory / name)
