"""Writes the results of all rounds as ordered parts: exactly one row for each row of the input."""

from __future__ import annotations

from contextlib import closing
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.findings import INVALID
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE
from airflow_provider_openai_batches.inference.data.manifest import (
    MANIFEST_FILE,
    SOURCES,
    UNREADABLE_FILE,
    LiveUse,
    Merged,
    Part,
)
from airflow_provider_openai_batches.inference.data.outcomes import STATUSES
from airflow_provider_openai_batches.inference.data.partitions import Partitions, parts_in_order, remove_left
from airflow_provider_openai_batches.inference.data.result_files import ResultFiles
from airflow_provider_openai_batches.inference.data.results import AnswerReader
from airflow_provider_openai_batches.inference.data.row_models import RowModels
from airflow_provider_openai_batches.inference.data.row_results import Block, RowResults
from airflow_provider_openai_batches.inference.data.writers import WRITERS
from airflow_provider_openai_batches.inference.data.writers.outputs import SizeDiffersError, vector_size
from airflow_provider_openai_batches.inference.data.writers.protocol import Columns
from airflow_provider_openai_batches.pricing.cost import Bill
from airflow_provider_openai_batches.pricing.prices import NO_PRICES, Prices
from airflow_provider_openai_batches.storage import (
    AnyPath,
    as_path,
    make_directory,
    names_in,
    open_binary,
    remove,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.inference.data.partitions import PartRows
    from airflow_provider_openai_batches.inference.data.writers.protocol import PartWriter

ROWS_PER_PART = 50_000


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
    partition_by: str | None = None,
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
    :param typed_output: whether outputs have the type of the schema, and vectors a fixed size if all have
        the same.
    :param partition_by: a kept column; the parts are in a directory for each of its values.
    :raises InvalidInputError: if an argument is unknown, or the results of a shard are not in the index.
    """
    check_output(output, output_format, rows_per_part)
    index.check_complete()
    directory = as_path(directory)
    make_directory(directory)
    before = names_in(directory)
    if MANIFEST_FILE in before:
        remove(directory / MANIFEST_FILE)
    reader = AnswerReader(spec_of(index.job.endpoint), output, schema)
    kind = schema.output_type if typed_output and schema is not None else None
    columns = Columns(
        whole_body=output == "body", has_source=has_source, output_type=kind, partition_by=partition_by
    )
    writing = _Writing(index, directory, reader, output_format, rows_per_part, prices, reusable)
    merged = writing.typed(columns) if typed_output else writing.write(columns)
    kept = {part.file for part in merged.parts} | ({UNREADABLE_FILE} if index.unreadable else set())
    _remove_others(directory, before, kept)
    remove_left(directory, before, kept)
    return merged


class _Writing(msgspec.Struct, frozen=True):
    """The parts of a job that are to be written."""

    index: ResultIndex
    directory: AnyPath
    reader: AnswerReader
    output_format: str
    rows_per_part: int
    prices: Prices
    reusable: bytearray | None

    def typed(self, columns: Columns) -> Merged:
        """Write vectors as lists of a fixed size, or begin again if that turns out not to be possible."""
        size = self._vector_size()
        try:
            return self.write(msgspec.structs.replace(columns, vector_size=size))
        except SizeDiffersError:
            return self.write(columns)

    def _vector_size(self) -> int | None:
        """Return the size of the first vector; None if there are no vectors, or a row has none."""
        index, rows = self.index, range(self.index.job.rows)
        if not spec_of(index.job.endpoint).gives_vectors or any(
            index.location(row)[0] <= INVALID for row in rows
        ):
            return None
        with ResultFiles(index) as files:
            return vector_size(self.reader.read_line(files.read_of(0), answered=True))

    def _parts(self, columns: Columns) -> Generator[PartRows]:
        work = self.index.work
        if columns.partition_by is None:
            return parts_in_order(work, self.index.job.rows, self.rows_per_part)
        return Partitions(work, columns.partition_by).parts(self.rows_per_part)

    def write(self, columns: Columns) -> Merged:
        index = self.index
        merged = Merged(counts=dict.fromkeys(STATUSES, 0))
        if columns.has_source:
            merged.sources = dict.fromkeys(SOURCES, 0)
        writer = WRITERS[self.output_format](index.job, index.work, columns)
        with ResultFiles(index, in_order=columns.partition_by is None) as files:
            bill, models = Bill(self.prices), RowModels(index.job, index.work)
            results = RowResults(index, files, self.reader, merged, bill, models, self.reusable)
            with closing(self._parts(columns)) as parts:
                for part in parts:
                    blocks = results.blocks(part.lines, part.numbers)
                    merged.parts.append(_write_part(self.directory, part, writer, blocks))
            results.add_superseded()
            if index.unreadable:
                _keep_unreadable(index, files, self.directory)
        results.sum_up()
        if index.live_files:
            share = self.prices.batch_discount
            merged.live = LiveUse(
                rows=index.live_rows,
                usage=results.bill.usage("live"),
                times_batch_price=1 / share if share else None,
            )
        merged.scan = index.scan
        return merged


def read_first(
    index: ResultIndex, rows: int, *, schema: OutputSchema | None, prices: Prices = NO_PRICES
) -> tuple[Merged, list[Block]]:
    """
    Read the answers to the first rows, and write nothing.

    :param rows: how many; all of them are in memory then.
    :param prices: what tokens cost.
    """
    merged = Merged(counts=dict.fromkeys(STATUSES, 0))
    reader = AnswerReader(spec_of(index.job.endpoint), "text", schema)
    models = RowModels(index.job, index.work)
    with ResultFiles(index) as files, open_binary(index.work / ROWS_FILE) as lines:
        results = RowResults(index, files, reader, merged, Bill(prices), models, None)
        blocks = list(results.blocks(islice(lines, rows), range(rows)))
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


def _write_part(directory: AnyPath, part_rows: PartRows, writer: PartWriter, blocks: Iterator[Block]) -> Part:
    path = directory
    for name in part_rows.names(writer.suffix):
        path /= name
    count = 0
    with whole(path) as handle:
        with writer.open(handle) as part:
            for rows, answers in blocks:
                part.write(rows, answers)
                count += len(rows)
        size = handle.tell()
    return Part("/".join(part_rows.names(writer.suffix)), count, size, part_rows.partition)


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
