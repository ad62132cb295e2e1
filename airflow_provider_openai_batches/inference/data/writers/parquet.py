"""Parts as Parquet: the columns of the JSON lines, with the same types in every part, in small row groups."""

from __future__ import annotations

import base64
import binascii
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.inference.data.arrow import pyarrow
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE
from airflow_provider_openai_batches.inference.data.requests import SOURCE_COLUMN
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.results import Answer
    from airflow_provider_openai_batches.inference.data.writers.protocol import OpenPart
    from airflow_provider_openai_batches.storage import AnyPath

_INTEGERS = 1 << 63
_GROUP_ROWS = 10_000
_GROUP_BYTES = 16 << 20  # of JSON; Arrow's columns and the writer's pages are about as much again


class ParquetWriter:
    """
    Opens parts in the Parquet format.
    Vectors become ``list<float>`` (``list<list<float>>`` if any request has several inputs), every other
    output becomes text. Usage and error are structs. A kept column whose values all have one JSON type keeps
    that type, any other becomes text.

    :raises InvalidInputError: if pyarrow is not installed.
    """

    suffix = ".parquet"

    @staticmethod
    def check() -> None:
        pyarrow("pyarrow.parquet")

    def __init__(self, job: Job, work: AnyPath, *, whole_body: bool, has_source: bool = False) -> None:
        arrow = pyarrow("pyarrow")
        vector = arrow.list_(arrow.float32())
        several = any(shard.embedding_inputs != shard.requests for shard in job.shards)
        is_vector = spec_of(job.endpoint).gives_vectors and not whole_body
        output = (arrow.list_(vector) if several else vector) if is_vector else arrow.string()
        types = {"integer": arrow.int64(), "number": arrow.float64(), "boolean": arrow.bool_()}
        self._kept = _kept_types(work)
        self._schema = arrow.schema(
            [
                ("custom_id", arrow.string()),
                *((name, types.get(kind, arrow.string())) for name, kind in self._kept.items()),
                ("status", arrow.string()),
                ("output", output),
                ("usage", arrow.struct([(name, arrow.int64()) for name in Usage.__struct_fields__])),
                ("error", arrow.struct([("code", arrow.string()), ("message", arrow.string())])),
                ("finish_reason", arrow.string()),
                *([(SOURCE_COLUMN, arrow.string())] if has_source else []),
            ]
        )

    @contextmanager
    def open(self, handle: BinaryIO) -> Iterator[OpenPart]:
        with pyarrow("pyarrow.parquet").ParquetWriter(handle, self._schema) as writer:
            part = _ParquetPart(writer, self._schema, self._kept)
            yield part
            part.flush()


class _ParquetPart:
    def __init__(self, writer: Any, schema: Any, kept: dict[str, str]) -> None:
        self._writer, self._schema, self._kept = writer, schema, kept
        kind = schema.field("output").type
        self._output: Callable[[Any], Any] = _text if kind == pyarrow("pyarrow").string() else _vectors(kind)
        self._has_source = schema.names[-1] == SOURCE_COLUMN
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def write(self, rows: list[bytes], answers: list[Answer]) -> None:
        for row, answer in zip(rows, answers, strict=True):
            self._add(row, answer)

    def _add(self, row: bytes, answer: Answer) -> None:
        kept = msgspec.json.decode(row)
        values = [_text(kept[name]) if kind == "text" else kept[name] for name, kind in self._kept.items()]
        output = self._output(answer.output)
        usage, error = (
            part and msgspec.structs.asdict(part) for part in (answer.usage, answer.outcome.error)
        )
        own = (answer.outcome.status, output, usage, error, answer.finish_reason)
        source = (answer.source,) if self._has_source else ()
        self._rows.append((kept["custom_id"], *values, *own, *source))
        self._bytes += len(row) + _size(output)
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        arrow = pyarrow("pyarrow")
        columns = [
            _vector_column(arrow, values, field.type)
            if arrow.types.is_list(field.type)
            else arrow.array(values, field.type)
            for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_batch(arrow.record_batch(columns, schema=self._schema))
        self._rows.clear()
        self._bytes = 0


def _size(output: Any) -> int:
    if isinstance(output, array):
        return len(output) * output.itemsize
    return sum(map(_size, output)) if isinstance(output, list) else len(output or "")


def _text(value: Any) -> str | None:
    """Return text as it is, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _vectors(kind: Any) -> Callable[[Any], Any]:
    """Return a function that packs numbers into 4 bytes each: a Python float takes eight times as much."""

    def one(output: Any) -> array[float] | None:
        try:
            return _vector(output)
        except (msgspec.DecodeError, binascii.Error, TypeError, ValueError):
            return None  # the answer is not an embedding, and its row says so

    def several(output: Any) -> list[array[float] | None] | None:
        if output is None:
            return None
        return [one(vector) for vector in (output if isinstance(output, list) else [output])]

    return several if pyarrow("pyarrow").types.is_list(kind.value_type) else one


def _vector(output: msgspec.Raw) -> array[float]:
    """Read a list of numbers, or with ``encoding_format: base64`` the bytes of 4-byte floats."""
    value = msgspec.json.decode(output, type=list[float] | str)
    if isinstance(value, str):
        vector = array("f")
        vector.frombytes(base64.b64decode(value, validate=True))
        return vector
    return array("f", value)


def _vector_column(arrow: Any, values: Any, kind: Any) -> Any:
    """Build a column of lists from buffers; at the lowest depth each value is an array of floats."""
    offsets: list[int | None] = []
    length = 0
    for value in values:
        offsets.append(None if value is None else length)
        length += len(value) if value is not None else 0
    offsets.append(length)
    present = [value for value in values if value is not None]
    if arrow.types.is_list(kind.value_type):
        items = _vector_column(arrow, [item for value in present for item in value], kind.value_type)
    else:
        buffer = arrow.py_buffer(b"".join(present))
        items = arrow.Array.from_buffers(arrow.float32(), length, [None, buffer])
    return arrow.ListArray.from_arrays(arrow.array(offsets, arrow.int32()), items, type=kind)


_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string"}


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
                    kinds.add(_kind(value))
    return {name: _common(kinds) for name, kinds in seen.items() if name != "custom_id"}


def _kind(value: Any) -> str:
    kind = _KINDS.get(type(value), "text")
    return "text" if kind == "integer" and not -_INTEGERS <= value < _INTEGERS else kind


def _common(kinds: set[str]) -> str:
    if kinds == {"integer", "number"}:
        return "number"
    return kinds.pop() if len(kinds) == 1 else "text"
