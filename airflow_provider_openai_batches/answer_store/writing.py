"""Writes segments, one after the other."""

from __future__ import annotations

from array import array
from contextlib import ExitStack, suppress
from struct import Struct
from typing import TYPE_CHECKING, Self
from zlib import crc32

import msgspec

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO

    from airflow_provider_openai_batches.answer_store.folder import StoreFolder
    from airflow_provider_openai_batches.answer_store.segments import AnswerGroup

_HALVES = Struct(">QQ")
_LONG_GROUPS = 1 << 23  # bytes of all groups of a segment


class _Open:
    """What is known of the segment that is being written."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self.file = name, file
        self.size = self.group_bytes = 0
        self.groups: dict[AnswerGroup, int] = {}
        self.firsts, self.seconds, self.offsets = array("Q"), array("Q"), array("Q")
        self.lengths, self.checksums, self.numbers = array("I"), array("I"), array("H")

    @property
    def is_full(self) -> bool:
        return (
            len(self.firsts) >= segments.MAX_ANSWERS
            or self.size >= segments.MAX_DATA_BYTES
            or len(self.groups) > segments.MAX_GROUPS
            or self.group_bytes > _LONG_GROUPS
        )

    def add(self, digest: bytes, number: int, line: bytes) -> None:
        self.file.write(line)
        first, second = _HALVES.unpack(digest)
        self.firsts.append(first)
        self.seconds.append(second)
        self.offsets.append(self.size)
        self.lengths.append(len(line))
        self.checksums.append(crc32(line))
        self.numbers.append(number)
        self.size += len(line)

    def index(self) -> segments.SegmentIndex:
        """Return the index, with the first answer of those that have one digest."""
        firsts, seconds = self.firsts, self.seconds
        order = sorted(range(len(firsts)), key=firsts.__getitem__)
        if len(set(firsts)) < len(firsts):
            places = {(firsts[place], seconds[place]): place for place in reversed(order)}
            order = list(reversed(places.values()))

        def sorted_bytes(column: array[int]) -> bytes:
            return segments.bytes_of(array(column.typecode, map(column.__getitem__, order)))

        return segments.SegmentIndex(
            version=segments.VERSION,
            data_size=self.size,
            groups=list(self.groups),
            firsts=sorted_bytes(firsts),
            seconds=sorted_bytes(seconds),
            offsets=sorted_bytes(self.offsets),
            lengths=sorted_bytes(self.lengths),
            checksums=sorted_bytes(self.checksums),
            numbers=sorted_bytes(self.numbers),
        )


class SegmentsWriter:
    """
    Writes answers into segments of bounded size; a context manager.

    A segment appears when it is full; the last one appears at the end, unless that is an error.

    :param writer: what the names of the segments begin with.
    """

    def __init__(self, folder: StoreFolder, writer: str) -> None:
        self._folder, self._writer = folder, writer
        self._open: _Open | None = None
        self._stack = ExitStack()
        self.written: list[str] = []
        self.answers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._complete()
            return
        with suppress(InvalidInputError):  # what the folder would say of the same error
            self._stack.__exit__(kind, error, trace)

    def add(self, digest: bytes, group: AnswerGroup, body: bytes) -> None:
        """
        Write an answer. One that is longer than 64 MB is left out.

        :raises InvalidInputError: if the model's name and the metadata are longer than any service takes.
        """
        line = b'{"key":"%b","body":%b}\n' % (digest.hex().encode(), body)
        if len(line) > segments.MAX_LINE_BYTES:
            return
        current = self._open or self._begin()
        number = current.groups.get(group)
        if number is None:
            number = current.groups[group] = len(current.groups)
            current.group_bytes += _checked_size(group)
        current.add(digest, number, line)
        self.answers += 1
        if current.is_full:
            self._complete()

    def _begin(self) -> _Open:
        name = segments.new_name(self._writer, len(self.written))
        self._stack = ExitStack()
        file = self._stack.enter_context(self._folder.create(segments.data_file(name)))
        self._open = _Open(name, file)
        return self._open

    def _complete(self) -> None:
        current, self._open = self._open, None
        if current is None:
            return
        self._stack.close()  # the file of answers appears
        with self._folder.create(segments.index_file(current.name)) as file:
            file.write(segments.encode_index(current.index()))
        self.written.append(current.name)


def _checked_size(group: AnswerGroup) -> int:
    size = len(msgspec.msgpack.encode(group))
    if size > segments.MAX_GROUP_BYTES:
        raise InvalidInputError(
            f"The model's name and the metadata of an answer have {size} bytes; a store of answers takes "
            f"{segments.MAX_GROUP_BYTES}. Shorten metadata"
        )
    return size
