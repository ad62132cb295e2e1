"""Arrow tables from rows whose types nobody knows beforehand, such as those of JSON lines."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.inference.data.arrow import pyarrow
from airflow_provider_openai_batches.inference.data.value_types import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_ROWS = 20_000


def table_of(rows: Iterator[dict[str, Any]]) -> Any:
    """Make columns of some thousand rows at a time: rows as Python objects take many times the memory."""
    arrow = pyarrow("pyarrow")
    columns: dict[str, list[Any]] = {}
    count = 0
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        for name in dict.fromkeys(name for row in chunk for name in row):
            parts = columns.setdefault(name, [arrow.nulls(count)] if count else [])
            parts.append(_array(arrow, [row.get(name) for row in chunk]))
        count += len(chunk)
        for parts in columns.values():
            if (missing := count - sum(map(len, parts))) > 0:
                parts.append(arrow.nulls(missing))
    return arrow.table({name: _column(arrow, parts) for name, parts in columns.items()})


def _array(arrow: Any, values: list[Any]) -> Any:
    """Return an Arrow array, or the values themselves if they have no common type."""
    try:
        return arrow.array(values)
    except (arrow.ArrowException, TypeError, ValueError, OverflowError):
        return values


def _column(arrow: Any, parts: list[Any]) -> Any:
    kinds = [part.type for part in parts if isinstance(part, arrow.Array)]
    known = [kind for kind in kinds if not arrow.types.is_null(kind)]
    if len(kinds) == len(parts) and len(set(known)) <= 1:
        whole = [
            arrow.nulls(len(part), known[0]) if known and part.type not in known else part for part in parts
        ]
        return arrow.chunked_array(whole)
    values = [value for part in parts for value in _plain(arrow, part)]
    column = _array(arrow, values)
    return arrow.array(map(text_of, values), arrow.string()) if column is values else column


def _plain(arrow: Any, part: Any) -> Any:
    return part.to_pylist() if isinstance(part, arrow.Array) else part
