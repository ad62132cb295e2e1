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


class Vectors:
    """
    A column of lists of 32-bit floats.

    :param several: whether there are requests of several inputs, so that each output is a list of vectors.
    :param size: of all vectors, where their lists have a fixed size; one of another size is null, and in the
        second column as JSON.
    :param has_text: whether there is that second column.
    """

    def __init__(self, *, several: bool, size: int | None = None, has_text: bool = False) -> None:
        arrow = pyarrow("pyarrow")
        self._vector = arrow.list_(arrow.float32(), -1 if size is None else size)
        self._several, self._size, self._has_text = several, size, has_text
        self.fields = [arrow.field("output", arrow.list_(self._vector) if several else self._vector)]
        if has_text:
            self.fields.append(arrow.field(OUTPUT_TEXT_COLUMN, arrow.string()))

    def values(self, answer: Answer) -> tuple[list[Any], int]:
        output = answer.output
        vectors = output if self._several and isinstance(output, list) else [output]
        found = [_vector_in(vector) for vector in vectors]
        size = sum(len(vector) * _FLOAT_BYTES for vector in found if vector is not None)
        fits = self._size is None or all(vector is None or len(vector) == self._size for vector in found)
        value = None if output is None or not fits else found if self._several else found[0]
        if not self._has_text:
            return [value], size
        is_whole = fits and (output is None or None not in found)
        return [value, None if is_whole else text_of(output)], size

    def column(self, values: Sequence[Any], number: int) -> Any:
        arrow = pyarrow("pyarrow")
        if number:
            return arrow.array(values, arrow.string())
        return self._lists(arrow, values) if self._several else self._column(arrow, values)

    def _lists(self, arrow: Any, values: Sequence[Any]) -> Any:
        vectors = [vector for value in values if value is not None for vector in value]
        items, kind = self._column(arrow, vectors), self.fields[0].type
        return arrow.ListArray.from_arrays(_offsets(arrow, values), items, type=kind)

    def _column(self, arrow: Any, values: Sequence[Any]) -> Any:
        """Build it from buffers; each value is an array of floats."""
        blank = b"\0" * _FLOAT_BYTES * (self._size or 0)  # a list of a fixed size takes its room when null
        data = arrow.py_buffer(b"".join(blank if value is None else value for value in values))
        items = arrow.Array.from_buffers(arrow.float32(), data.size // _FLOAT_BYTES, [None, data])
        if self._size is None:
            return arrow.ListArray.from_arrays(_offsets(arrow, values), items, type=self._vector)
        valid = arrow.array([value is not None for value in values], arrow.bool_()).buffers()[1]
        return arrow.Array.from_buffers(self._vector, len(values), [valid], children=[items])


def _offsets(arrow: Any, values: Sequence[Any]) -> Any:
    offsets: list[int | None] = []
    length = 0
    for value in values:
        offsets.append(None if value is None else length)
        length += len(value) if value is not None else 0
    offsets.append(length)
    return arrow.array(offsets, arrow.int32())


def text_of(value: Any) -> str | None:
    """Return text as it is, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


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
