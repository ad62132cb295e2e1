"""Reads single lines of the result files of a job, wherever the files are kept."""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from airflow_provider_openai_batches.inference.data.index import ResultIndex

_OPEN_FILES = 64
# On this machine, the answers of rows that later rows repeat, so that no file is needed again for them.
_SHARED_FILE = "shared-answers.jsonl"


class ResultFiles:
    """
    Reads pieces of many files, and keeps only a few of them open.

    :param in_order: whether the rows are asked for in ascending order, so that files can go when all of their
        rows were read; otherwise all stay on this machine.
    """

    def __init__(self, index: ResultIndex, *, in_order: bool = True) -> None:
        self._index, self._in_order = index, in_order
        self._fetched: set[int] = set()
        self._open: OrderedDict[int, tuple[BinaryIO, int | None]] = OrderedDict()
        self._shared: FileIO | None = None
        # Files that are no copies are always at hand.
        is_sharing = in_order and index.are_copies and index.repeats
        self._is_repeated = index.repeats.marks_of_firsts() if is_sharing else bytearray()
        self._places = array("Q", [0]) * len(self._is_repeated)  # in the file of shared answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1][0].close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def read(self, number: int, offset: int, length: int) -> bytes:
        handle, descriptor = self._open.get(number) or self._opened(number)
        if descriptor is not None:
            return os.pread(descriptor, length, offset)
        handle.seek(offset)
        return handle.read(length)

    def read_of(self, row: int) -> bytes:
        """Return the best line of a row that has one."""
        _, number, offset, length = self._index.location(row)
        if not self._places:
            return self.read(number, offset, length)
        first = self._index.repeats.first_of(row)
        if first != row and self._shared is not None:
            return os.pread(self._shared.fileno(), length, self._places[first])
        data = self.read(number, offset, length)
        if self._is_repeated[row]:
            self._share(row, data)
        return data

    def _share(self, row: int, data: bytes) -> None:
        """Keep a line at hand for the rows that repeat this one."""
        if self._shared is None:
            self._shared = (self._index.work / _SHARED_FILE).open("w+b", buffering=0)
        self._places[row] = self._shared.tell()
        self._shared.write(data)

    def drop_before(self, row: int) -> None:
        """Let the files go in which there is nothing about this row and those that follow."""
        if not self._in_order:
            return
        self._drop([number for number in self._fetched if self._index.last_rows[number] < row])

    def read_all(self, flat: Any) -> Iterator[tuple[int, bytes]]:
        """Yield file and bytes of pieces that are given as file, offset and length; file after file."""
        last = None
        for number, offset, length in sorted(zip(flat[::3], flat[1::3], flat[2::3], strict=True)):
            if last not in {None, number}:
                self._drop([last])
            last = number
            yield number, self.read(number, offset, length)

    def _drop(self, numbers: list[Any]) -> None:
        for number in numbers:
            if number in self._open:
                self._open.pop(number)[0].close()
            self._fetched.discard(number)
            self._index.drop(self._index.files[number].name)

    def _opened(self, number: int) -> tuple[BinaryIO, int | None]:
        if len(self._open) == _OPEN_FILES:
            self._open.popitem(last=False)[1][0].close()
        path = self._index.files[number]
        if number not in self._fetched:
            self._index.fetch(path.name)
            self._fetched.add(number)
        handle = open_binary(path)
        try:
            descriptor = handle.fileno()
        except OSError:  # a file in a store has none
            descriptor = None
        self._open[number] = (handle, descriptor)
        return self._open[number]
