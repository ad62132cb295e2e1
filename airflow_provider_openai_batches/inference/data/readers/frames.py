"""
Rows of a table in memory: pandas and Polars data frames, Arrow tables, and others with Arrow's stream.

No such library is imported here: a table is known by its methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.arrow import pyarrow, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK_ROWS = 1_000


def rows_of_table(table: Any) -> Iterator[dict[str, Any]] | None:
    """
    Return the rows of a table; None for what is not a table.

    :raises InvalidInputError: for a lazy table, which has no rows yet.
    """
    kind = f"{type(table).__module__.partition('.')[0]}.{type(table).__name__}"
    if hasattr(table, "collect_schema") and not hasattr(table, "iter_rows"):
        raise InvalidInputError(f"the rows of a job are a {kind}, which has no rows yet: call its .collect()")
    if hasattr(table, "iter_rows") and hasattr(table, "columns"):
        rows: Iterator[dict[str, Any]] = iter(table.iter_rows(named=True))
        return rows
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return _of_pandas(table)
    if hasattr(table, "to_batches") and hasattr(table, "schema"):
        return _of_batches(table.to_batches(max_chunksize=_CHUNK_ROWS))
    if hasattr(table, "to_pylist") and hasattr(table, "schema"):
        return rows_of(table)
    if hasattr(table, "__arrow_c_stream__") and not hasattr(
        table, "dtype"
    ):  # a series is a column, not a table
        return _of_batches(pyarrow("pyarrow").RecordBatchReader.from_stream(table))
    return None


def _of_batches(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from rows_of(batch)


def _of_pandas(frame: Any) -> Iterator[dict[str, Any]]:
    """A missing value is None; times lose their nanoseconds, which Python does not know."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"two columns of the data frame have the same name: {', '.join(names)}")
    for first in range(0, len(frame), _CHUNK_ROWS):
        part = frame.iloc[first : first + _CHUNK_ROWS]
        known = part.notna().to_numpy().tolist()
        values = [part.iloc[:, place].tolist() for place in range(len(names))]
        for number, is_known in enumerate(known):
            yield {
                name: _plain(column[number]) if given else None
                for name, column, given in zip(names, values, is_known, strict=True)
            }


def _plain(value: Any) -> Any:
    """A time that Python does not know, such as one past the year 9999, is given as text."""
    try:
        if hasattr(value, "to_pydatetime"):  # not after floor(), which refuses the hour that a clock repeats
            return value.to_pydatetime(warn=False)
        if not hasattr(value, "to_pytimedelta"):
            return value
        # pandas 2 cannot floor one of whole seconds.
        return (value.floor("us") if getattr(value, "unit", "ns") == "ns" else value).to_pytimedelta()
    except (ValueError, OverflowError):
        return str(value)
