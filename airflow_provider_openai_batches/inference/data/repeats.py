"""Rows of a job whose request an earlier row has already: they are not asked, and get that row's answer."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import JOB_FILE
from airflow_provider_openai_batches.storage import open_binary, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.storage import AnyPath

# Pairs of four-byte numbers: a row, and the first row with the same request.
REPEATS_FILE = "repeats.bin"


def save_repeats(work: AnyPath, pairs: array[int]) -> None:
    """Write pairs: row, first row, row, first row, …"""
    with whole(work / REPEATS_FILE) as file:
        file.write(pairs.tobytes())


def read_repeats(work: AnyPath, job: Job) -> array[int]:
    """
    Return the pairs, in one row; none if no two rows of the job have the same request.

    :raises InvalidInputError: if the file is damaged.
    """
    pairs, path = array("I"), work / REPEATS_FILE
    if not job.repeats:
        return pairs
    if path.exists():
        with open_binary(path) as file:
            found = file.read()
        if len(found) == 2 * job.repeats * pairs.itemsize:
            pairs.frombytes(found)
    rows, firsts = pairs[::2], pairs[1::2]
    is_ordered = all(first < row for row, first in zip(rows, firsts, strict=True))
    if not rows or not is_ordered or max(rows) >= job.rows:
        raise InvalidInputError(f"{path} is damaged. Delete {JOB_FILE} beside it, and the job starts over")
    return pairs


class Repeats:
    """
    The repeats of a job at hand: 4 bytes a row, and 4 more for each row that repeats another.

    :param pairs: as :func:`read_repeats` returns them.
    """

    def __init__(self, pairs: array[int], rows: int) -> None:
        self.rows = pairs[::2]
        self._first_of = array("I", range(rows)) if pairs else array("I")
        for row, first in zip(self.rows, pairs[1::2], strict=True):
            self._first_of[row] = first

    def __bool__(self) -> bool:
        return bool(self.rows)

    def first_of(self, row: int) -> int:
        """Return the first row with the same request, which is the row itself if it repeats none."""
        return self._first_of[row] if self._first_of else row

    def among(self, rows: array[int]) -> Iterator[tuple[int, int]]:
        """Yield those of these rows that repeat another one, each with that one."""
        first_of = self._first_of
        return ((row, first_of[row]) for row in rows if first_of[row] != row)

    def marks_of_firsts(self) -> bytearray:
        """Return for each row of the job 1 if another one repeats it."""
        marks = bytearray(len(self._first_of))
        for row in self.rows:
            marks[self._first_of[row]] = 1
        return marks
