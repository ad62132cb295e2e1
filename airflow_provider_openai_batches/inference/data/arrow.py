"""pyarrow, which only jobs that read or write Parquet need, and rows out of its tables."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# On fields of text that hold JSON.
JSON_MARK = {b"openai_batches": b"json"}


def pyarrow(module: str) -> Any:
    """
    Import a module of pyarrow.

    :raises InvalidInputError: if pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInputError(
            "Parquet needs pyarrow: install airflow-provider-openai-batches[parquet]"
        ) from error


def rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of an Arrow record batch.

    Python knows no nanoseconds: times are cut to microseconds. A column whose values Python does not
    know at all, such as dates past the year 9999, is given as text, so that the others can be used.
    """
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise InvalidInputError(f"two columns have the same name: {', '.join(names)}")
    for values in zip(*map(_values, batch.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Any) -> list[Any]:
    pa = pyarrow("pyarrow")
    try:
        kind = _without_nanoseconds(pa, column.type)
        values: list[Any] = (column if kind == column.type else column.cast(kind, safe=False)).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        values = column.cast(pa.string()).to_pylist()
    return values


def _without_nanoseconds(pa: Any, kind: Any) -> Any:
    types = pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_time64(kind):
        return pa.time64("us")
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return _nested_without_nanoseconds(pa, kind)


def _nested_without_nanoseconds(pa: Any, kind: Any) -> Any:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        make = pa.list_ if types.is_list(kind) else pa.large_list
        return make(_without_nanoseconds(pa, kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _without_nanoseconds(pa, field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_type, _without_nanoseconds(pa, kind.item_type))
    return _without_nanoseconds(pa, kind.value_type) if types.is_dictionary(kind) else kind


def json_reader(field: Any) -> Callable[[Any], Any] | None:
    """Return a function that reads the JSON in a value of a field; None if the field has none."""
    kind, types = field.type, pyarrow("pyarrow").types
    if JSON_MARK.items() <= (field.metadata or {}).items():
        return lambda value: None if value is None else msgspec.json.decode(value)
    if types.is_list(kind) and (read := json_reader(kind.value_field)):
        return lambda value: None if value is None else list(map(read, value))
    readers = {child.name: json_reader(child) for child in kind} if types.is_struct(kind) else {}
    found = {name: read for name, read in readers.items() if read is not None}
    if not found:
        return None
    return lambda value: (
        None if value is None else value | {name: read(value[name]) for name, read in found.items()}
    )
