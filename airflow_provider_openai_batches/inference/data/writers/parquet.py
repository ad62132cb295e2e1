"""Parts as Parquet: the columns of the JSON lines, with the same types in every part, in small row groups."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.inference.data.arrow import pyarrow
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE
from airflow_provider_openai_batches.inference.data.requests import SOURCE_COLUMN
from airflow_provider_openai_batches.inference.data.value_types import common_type, text_of, type_of
from airflow_provider_openai_batches.inference.data.writers.outputs import Texts, Typed, Vectors
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.results import Answer
    from airflow_provider_openai_batches.inference.data.writers.outputs import Outputs
    from airflow_provider_openai_batches.inference.data.writers.protocol import Columns, OpenPart
    from airflow_provider_openai_batches.storage import AnyPath

_GROUP_ROWS = 10_000
_GROUP_BYTES = 16 << 20  # of JSON; Arrow's columns and the writer's pages are about as much again


class ParquetWriter:
    """
    Opens parts in the Parquet format.
    Vectors become ``list<float>`` (``list<list<float>>`` if any request has several inputs), every other
    output becomes text. If types are asked for, vectors are lists of a fixed size, and an output has the type
    of its schema; then a column ``output_text`` has what does not fit. Usage and error are structs. A kept
    column whose values all have one JSON type keeps that type, any other becomes text.

    :raises InvalidInputError: if pyarrow is not installed.
    """

    suffix = ".parquet"

    @staticmethod
    def check() -> None:
        pyarrow("pyarrow.parquet")

    def __init__(self, job: Job, work: AnyPath, columns: Columns) -> None:
        arrow = pyarrow("pyarrow")
        self._outputs = _outputs_of(job, columns)
        types = {"integer": arrow.int64(), "number": arrow.float64(), "boolean": arrow.bool_()}
        self._kept = _kept_types(work)
        self._kept.pop(columns.partition_by or "", None)
        self._schema = arrow.schema(
            [
                ("custom_id", arrow.string()),
                *((name, types.get(kind, arrow.string())) for name, kind in self._kept.items()),
                ("status", arrow.string()),
                *self._outputs.fields,
                ("usage", arrow.struct([(name, arrow.int64()) for name in Usage.__struct_fields__])),
                ("error", arrow.struct([("code", arrow.string()), ("message", arrow.string())])),
                ("finish_reason", arrow.string()),
                *([(SOURCE_COLUMN, arrow.string())] if columns.has_source else []),
            ]
        )

    @contextmanager
    def open(self, handle: BinaryIO) -> Iterator[OpenPart]:
        with pyarrow("pyarrow.parquet").ParquetWriter(handle, self._schema) as writer:
            part = _ParquetPart(writer, self._schema, self._kept, self._outputs)
            yield part
            part.flush()


def _outputs_of(job: Job, columns: Columns) -> Outputs:
    if spec_of(job.endpoint).gives_vectors and not columns.whole_body:
        several = any(shard.embedding_inputs != shard.requests for shard in job.shards)
        return Vectors(several=several, size=columns.vector_size)
    return Typed(columns.output_type) if columns.output_type is not None else Texts()


class _ParquetPart:
    def __init__(self, writer: Any, schema: Any, kept: dict[str, str], outputs: Outputs) -> None:
        self._writer, self._schema, self._kept, self._outputs = writer, schema, kept, outputs
        self._first_output = schema.get_field_index("output")
        self._has_source = schema.names[-1] == SOURCE_COLUMN
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        for row, answer in zip(rows, answers, strict=True):
            self._add(row, answer)

    def _add(self, row: bytes, answer: Answer) -> None:
        kept = msgspec.json.decode(row)
        values = [text_of(kept[name]) if kind == "text" else kept[name] for name, kind in self._kept.items()]
        outputs, size = self._outputs.values(answer)
        usage, error = (
            part and msgspec.structs.asdict(part) for part in (answer.usage, answer.outcome.error)
        )
        own = (answer.outcome.status, *outputs, usage, error, answer.finish_reason)
        source = (answer.source,) if self._has_source else ()
        self._rows.append((kept["custom_id"], *values, *own, *source))
        self._bytes += len(row) + size
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        arrow = pyarrow("pyarrow")
        columns = [
            self._outputs.column(values, number - self._first_output)
            if 0 <= number - self._first_output < len(self._outputs.fields)
            else arrow.array(values, field.type)
            for number, (values, field) in enumerate(
                zip(zip(*self._rows, strict=True), self._schema, strict=True)
            )
        ]
        self._writer.write_batch(arrow.record_batch(columns, schema=self._schema))
        self._rows.clear()
        self._bytes = 0


def _kept_types(work: AnyPath) -> dict[str, str]:
    """Return the type of each kept column over all rows: all parts of a job must have the same types."""
    seen: dict[str, set[str]] = {}
    with open_binary(work / ROWS_FILE) as lines:
        for line in lines:
            columns = msgspec.json.decode(line)
            if len(columns) == 1:  # this row keeps no columns, and so no row does
                break
            for name, value in columns.items():
                kinds = seen.setdefault(name, set())
                if value is not None:
                    kinds.add(type_of(value))
    return {name: common_type(kinds) for name, kinds in seen.items() if name != "custom_id"}
