"""
What the requests of a job are called.

A row has an id of itself, ``row-`` and its number, unless one is given. Each shard has a file that says which
row each of its requests is: lines of ``[row, custom_id]`` where ids were given, and of ``[first, count]`` for
rows that follow each other and have those of themselves.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE, RowId
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.job import Shard
    from airflow_provider_openai_batches.storage import AnyPath

_BUCKETS = 64


def default_id(number: int) -> str:
    """The custom_id of a row that has none of its own."""
    return f"row-{number}"


def row_of_default_id(custom_id: str) -> int | None:
    """The row whose :func:`default_id` this is, None if it is of no row."""
    digits = custom_id[4:]
    if custom_id[:4] != "row-" or not (digits.isascii() and digits.isdigit()):
        return None
    row = int(digits)
    return row if custom_id == f"row-{row}" else None


class IdsWriter:
    """
    Writes the file of a shard; a context manager.

    ``next_row`` is counted up for each row of a run, which the caller does: that is done for each row.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._first = self.next_row = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._handle:
            self._end_run()

    def begin_run(self, row: int) -> None:
        """A row that does not follow the one before has the id that rows get of themselves."""
        self._end_run()
        self._first, self.next_row = row, row + 1

    def name(self, row: int, custom_id: bytes) -> None:
        """A row has an id that was given, here as JSON."""
        self._end_run()
        self._handle.write(b"[%d,%b]\n" % (row, custom_id))
        self._first = self.next_row = -1

    def _end_run(self) -> None:
        if self._first < self.next_row:
            self._handle.write(b"[%d,%d]\n" % (self._first, self.next_row - self._first))


def read_runs(work: AnyPath, shard: Shard) -> Iterator[tuple[int, int | str]]:
    """Yield row number and custom_id, or first row number and count, of the shard's requests, in order."""
    decode = msgspec.json.Decoder(tuple[int, int | str]).decode
    with open_binary(work / shard.ids_file) as lines:
        yield from map(decode, lines)


def read_ids(work: AnyPath, shard: Shard) -> Iterator[tuple[int, str]]:
    """Yield row number and custom_id of each request of the shard, in the order of its file."""
    for first, given in read_runs(work, shard):
        if isinstance(given, str):
            yield first, given
        else:
            yield from ((row, default_id(row)) for row in range(first, first + given))


class GivenIds:
    """
    Finds a ``custom_id`` that comes twice, at 8 bytes for each that was given.

    By hashes first; the texts are compared only of equal ones, and of those that another row may have of
    itself.
    """

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]
        self._like_default = array("q")

    def add(self, custom_id: str) -> None:
        value = hash(custom_id)
        self._buckets[value % _BUCKETS].append(value)
        if row_of_default_id(custom_id) is not None:
            self._like_default.append(value)

    def check(self, work: AnyPath, rows: int) -> None:
        """
        :param work: the directory of the job.
        :param rows: how many it has.
        :raises InvalidInputError: naming two rows with the same.
        """
        are_all = sum(map(len, self._buckets)) == rows
        suspects: set[int] = set() if are_all else set(self._like_default)
        for bucket in self._buckets:
            if len(seen := set(bucket)) < len(bucket):
                seen.clear()
                suspects.update(value for value in bucket if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        if suspects:
            self._compare(work, suspects)

    @staticmethod
    def _compare(work: AnyPath, suspects: set[int]) -> None:
        rows: dict[str, int] = {}
        decode = msgspec.json.Decoder(RowId).decode
        with open_binary(work / ROWS_FILE) as lines:
            for number, line in enumerate(lines):
                custom_id = decode(line).custom_id
                if hash(custom_id) in suspects and rows.setdefault(custom_id, number) != number:
                    raise InvalidInputError(
                        f"Rows {rows[custom_id]} and {number} have the same custom_id {custom_id!r:.80}"
                    )
