"""The columns of a Parquet part that hold the output: text, vectors, or the types of a schema."""

from __future__ import annotations

import base64
import binascii
from array import array
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from airflow_provider_openai_batches.inference.data.arrow import JSON_MARK, pyarrow
from airflow_provider_openai_batches.inference.data.output_types import JSON, Fitter
from airflow_provider_openai_batches.inference.data.requests import OUTPUT_TEXT_COLUMN
from airflow_provider_openai_batches.inference.data.value_types import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_openai_batches.inference.data.output_types import OutputType
    from airflow_provider_openai_batches.inference.data.results import Answer

_GOOD = "succeeded"
_FLOAT_BYTES = 4


class Outputs(Protocol):
    """
    The columns of the output.

    :ivar fields: their Arrow fields.
    """

    fields: list[Any]

    def values(self, answer: Answer) -> tuple[list[Any], int]:
        """Return a value for each column, and about how many bytes they are."""

    def column(self, values: Sequence[Any], number: int) -> Any:
        """Make a column, the first or the second one, of some of its values."""


class Texts:
    """One column of text; values that are not text are JSON."""

    def __init__(self) -> None:
        arrow = pyarrow("pyarrow")
        self.fields = [arrow.field("output", arrow.string())]

    def values(self, answer: Answer) -> tuple[list[Any], int]:
        text = text_of(answer.output)
        return [text], len(text or "")

    def column(self, values: Sequence[Any], _number: int) -> Any:
        arrow = pyarrow("pyarrow")
        return arrow.array(values, arrow.string())


class Typed:
    """A column with the type of the output schema, and one of text for all that does not fit into it."""

    def __init__(self, kind: OutputType) -> None:
        arrow = pyarrow("pyarrow")
        self.fields = [_field(arrow, "output", kind), arrow.field(OUTPUT_TEXT_COLUMN, arrow.string())]
        self._fit = Fitter(kind).fit

    def values(self, answer: Answer) -> tuple[list[Any], int]:
        if answer.outcome.status != _GOOD:
            text = text_of(answer.output)
            return [None, text], len(text or "")
        data = msgspec.json.encode(answer.output)
        try:
            output, is_whole = self._fit(msgspec.json.decode(data))
        except (msgspec.MsgspecError, ValueError, RecursionError):  # nested deeper than the reader goes
            output, is_whole = None, False
        return [output, None if is_whole else data.decode("utf-8", "replace")], len(data)

    def column(self, values: Sequence[Any], number: int) -> Any:
        return pyarrow("pyarrow").array(values, self.fields[number].type)


def _field(arrow: Any, name: str, kind: OutputType) -> Any:
    if isinstance(kind, dict):
        own = arrow.struct([_field(arrow, child, of) for child, of in kind.items()])
    elif isinstance(kind, list):
        own = arrow.list_(_field(arrow, "element", kind[0]))
    else:
        plain = {"integer": arrow.int64(), "number": arrow.float64(), "boolean": arrow.bool_()}
        own = plain.get(kind, arrow.string())
    return arrow.field(name, own, metadata=JSON_MARK if kind == JSON else None)


class SizeDiffersError(Exception):
    """A row has no vector of the size that all were to have."""


class Vectors:
    """
    A column of lists of 32-bit floats.

    :param several: whether there are requests of several inputs, so that each output is a list of vectors.
    :param size: of all vectors, which then are lists of a fixed size. Before version 26, pyarrow neither
        writes nor reads null in such a column of Parquet, so each row needs a vector.
    """

    def __init__(self, *, several: bool, size: int | None = None) -> None:
        arrow = pyarrow("pyarrow")
        self._vector = arrow.list_(arrow.float32(), -1 if size is None else size)
        self._several, self._size = several, size
        self.fields = [arrow.field("output", arrow.list_(self._vector) if several else self._vector)]

    def values(self, answer: Answer) -> tuple[list[Any], int]:
        output = answer.output
        vectors = output if self._several and isinstance(output, list) else [output]
        found = [_vector_in(vector) for vector in vectors]
        sizes = [0 if vector is None else len(vector) for vector in found]
        if self._size is not None and any(size != self._size for size in sizes):
            raise SizeDiffersError
        value = None if output is None else found if self._several else found[0]
        return [value], sum(sizes) * _FLOAT_BYTES

    def column(self, values: Sequence[Any], _number: int) -> Any:
        arrow = pyarrow("pyarrow")
        if not self._several:
            return self._column(arrow, values)
        vectors = [vector for value in values if value is not None for vector in value]
        items, kind = self._column(arrow, vectors), self.fields[0].type
        return arrow.ListArray.from_arrays(_offsets(arrow, values), items, type=kind)

    def _column(self, arrow: Any, values: Sequence[Any]) -> Any:
        """Build it from buffers; each value is an array of floats."""
        data = arrow.py_buffer(b"".join(value for value in values if value is not None))
        items = arrow.Array.from_buffers(arrow.float32(), data.size // _FLOAT_BYTES, [None, data])
        if self._size is not None:
            return arrow.Array.from_buffers(self._vector, len(values), [None], children=[items])
        return arrow.ListArray.from_arrays(_offsets(arrow, values), items, type=self._vector)


def _offsets(arrow: Any, values: Sequence[Any]) -> Any:
    offsets: list[int | None] = []
    length = 0
    for value in values:
        offsets.append(None if value is None else length)
        length += len(value) if value is not None else 0
    offsets.append(length)
    return arrow.array(offsets, arrow.int32())


def vector_size(answer: Answer) -> int | None:
    """Return how many numbers the first vector of an answer has; None if it has none."""
    output = answer.output[0] if isinstance(answer.output, list) and answer.output else answer.output
    return len(_vector_in(output) or ()) or None


def _vector_in(output: Any) -> array[float] | None:
    """Pack numbers into 4 bytes each: a Python float takes eight times as much."""
    try:
        return _vector(output)
    except (msgspec.MsgspecError, binascii.Error, TypeError, ValueError):
        return None  # the answer is not an embedding, and its row says so


def _vector(output: msgspec.Raw) -> array[float]:
    """Read a list of numbers, or with ``encoding_format: base64`` the bytes of 4-byte floats."""
    value = msgspec.json.decode(output, type=list[float] | str)
    if isinstance(value, str):
        vector = array("f")
        vector.frombytes(base64.b64decode(value, validate=True))
        return vector
    return array("f", value)
