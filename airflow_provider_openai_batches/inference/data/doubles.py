"""Whether ids, and columns that are keys of a table, tell the rows of a job apart."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE, RowId, row_of_default_id
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_openai_batches.storage import AnyPath

_BUCKETS = 64


class Doubles:
    """Finds what occurs twice among hashable values, by their hashes alone, at 8 bytes for each."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def add(self, value: str | bytes) -> int:
        """Note a value and return its hash."""
        hashed = hash(value)
        self._buckets[hashed % _BUCKETS].append(hashed)
        return hashed

    def found(self) -> set[int]:
        """Return the hashes that were noted more than once; their values may differ all the same."""
        found: set[int] = set()
        for bucket in self._buckets:
            if len(set(bucket)) < len(bucket):
                found.update(hashed for hashed, count in Counter(bucket).items() if count > 1)
        return found


class GivenIds:
    """
    Finds a ``custom_id`` that occurs twice, at 8 bytes for each one that was given.

    Only hashes are kept. Ids are compared as texts if their hashes are equal, or if they look like a default
    id.
    """

    def __init__(self) -> None:
        self._given = Doubles()
        self._like_default = array("q")

    def add(self, custom_id: str) -> None:
        value = self._given.add(custom_id)
        if row_of_default_id(custom_id) is not None:
            self._like_default.append(value)

    def check(self, work: AnyPath, rows: int) -> None:
        """
        :param work: the directory of the job.
        :param rows: how many rows the job has.
        :raises InvalidInputError: naming two rows with the same ``custom_id``.
        """
        are_all = len(self._given) == rows
        if suspects := self._given.found() | (set() if are_all else set(self._like_default)):
            _compare_ids(work, suspects)


def _compare_ids(work: AnyPath, suspects: set[int]) -> None:
    rows: dict[str, int] = {}
    decode = msgspec.json.Decoder(RowId).decode
    with open_binary(work / ROWS_FILE) as lines:
        for number, line in enumerate(lines):
            custom_id = decode(line).custom_id
            if hash(custom_id) in suspects and rows.setdefault(custom_id, number) != number:
                raise InvalidInputError(
                    f"Rows {rows[custom_id]} and {number} have the same custom_id {custom_id!r:.80}"
                )


def check_keys(work: AnyPath, columns: Sequence[str]) -> None:
    """
    Make sure that each row has values of its own in these columns, at 8 bytes for each row.

    :param work: the directory of the job.
    :param columns: kept columns; without any, nothing is checked.
    :raises InvalidInputError: naming a row without a value, or two rows with the same values.
    """
    if not columns:
        return
    seen = Doubles()
    for row, values in _values(work, columns):
        if None in values:
            column = columns[values.index(None)]
            raise InvalidInputError(
                f"Row {row['custom_id']!r:.80} has no value in the column {column!r}, which is a key of the "
                "table: nothing was sent"
            )
        seen.add(_as_text(values))
    if suspects := seen.found():
        _compare(work, columns, suspects)


def _values(work: AnyPath, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    with open_binary(work / ROWS_FILE) as lines:
        for line in lines:
            row = msgspec.json.decode(line)
            yield row, [row.get(column) for column in columns]


def _as_text(values: list[Any]) -> bytes:
    return msgspec.json.encode(values)


def _compare(work: AnyPath, columns: Sequence[str], suspects: set[int]) -> None:
    rows: dict[bytes, str] = {}
    for row, values in _values(work, columns):
        key, custom_id = _as_text(values), row["custom_id"]
        if hash(key) in suspects and rows.setdefault(key, custom_id) != custom_id:
            said = ", ".join(f"{name}={value!r:.80}" for name, value in zip(columns, values, strict=True))
            raise InvalidInputError(
                f"The key of the table is not unique: rows {rows[key]!r:.80} and {custom_id!r:.80} both have "
                f"{said}. Nothing was sent; use another key, or mode 'append'"
            )
