"""Reads lines of a segment: in the order of the file, several at once, each one checked."""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import msgspec

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.exceptions import BrokenSegmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow_provider_openai_batches.answer_store.digests import Record
    from airflow_provider_openai_batches.answer_store.folder import StoreFolder

_PART_BYTES = 1 << 20
_GAP_BYTES = 1 << 15  # reading so much that nobody needs costs less than another request


class _Line(msgspec.Struct):
    key: str
    body: msgspec.Raw


_decode = msgspec.json.Decoder(_Line).decode


class Wanted:
    """Which answers of a segment are wanted for which rows, at 16 bytes a row; rows may share one."""

    def __init__(self) -> None:
        self.places, self.rows, self.seconds = array("I"), array("I"), array("Q")

    def extend(self, places: Iterable[int], records: Sequence[Record]) -> None:
        self.places.extend(places)
        self.rows.extend([record[0] for record in records])
        self.seconds.extend([record[2] for record in records])


class _Columns:
    """The index of a segment as numbers."""

    def __init__(self, index: segments.SegmentIndex) -> None:
        self.firsts = segments.column_of("Q", index.firsts)
        self.seconds = segments.column_of("Q", index.seconds)
        self.offsets = segments.column_of("Q", index.offsets)
        self.lengths = segments.column_of("I", index.lengths)
        self.checksums = segments.column_of("I", index.checksums)
        self._size = index.data_size

    def is_possible(self, place: int) -> bool:
        """Whether a line lies in the file, and is not longer than one may be."""
        length = self.lengths[place]
        return length <= segments.MAX_LINE_BYTES and self.offsets[place] + length <= self._size

    def body(self, place: int, line: bytes) -> bytes:
        """
        Return the answer in a line.

        :raises BrokenSegmentError: if it is not the line that was written, or not about this digest.
        """
        if crc32(line) != self.checksums[place]:
            raise BrokenSegmentError(f"the line at byte {self.offsets[place]} is damaged")
        try:
            key, body = msgspec.structs.astuple(_decode(line))
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise BrokenSegmentError(
                f"the line at byte {self.offsets[place]} cannot be read: {error}"
            ) from error
        if key != f"{self.firsts[place]:016x}{self.seconds[place]:016x}":
            raise BrokenSegmentError(f"the line at byte {self.offsets[place]} is about another request")
        answer = bytes(body)
        if b"\n" in answer:
            raise BrokenSegmentError(f"the answer at byte {self.offsets[place]} has more than one line")
        return answer


class _Part(NamedTuple):
    """Lines that are read at once: numbers of what is wanted, and the bytes from where to where."""

    wanted: list[int]
    start: int
    end: int


def read_lines(
    folder: StoreFolder, name: str, index: segments.SegmentIndex, wanted: Wanted
) -> Iterator[tuple[int, bytes]]:
    """
    Yield row and answer, in the order of the file.

    :raises BrokenSegmentError: at the first line that is not as it was written.
    :raises FileNotFoundError: if the file is not there any more.
    """
    columns = _Columns(index)
    places, rows, seconds = wanted.places, wanted.rows, wanted.seconds
    parts = list(_parts(columns, places))
    with folder.parts(segments.data_file(name), len(parts)) as read:
        for part in parts:
            data = _read_whole(read, part)
            for number in part.wanted:
                place = places[number]
                if columns.seconds[place] == seconds[number]:  # else the two digests have one first half
                    start = columns.offsets[place] - part.start
                    yield rows[number], columns.body(place, data[start : start + columns.lengths[place]])


def _parts(columns: _Columns, places: array[int]) -> Iterator[_Part]:
    offsets, lengths = columns.offsets, columns.lengths
    numbers: list[int] = []
    start = end = 0
    for number in sorted(range(len(places)), key=lambda number: offsets[places[number]]):
        place = places[number]
        if not columns.is_possible(place):
            raise BrokenSegmentError("its index names a line that cannot be")
        begins, ends = offsets[place], offsets[place] + lengths[place]
        if numbers and (begins > end + _GAP_BYTES or ends > start + _PART_BYTES):
            yield _Part(numbers, start, end)
            numbers = []
        if not numbers:
            start = end = begins
        numbers.append(number)
        end = max(end, ends)
    if numbers:
        yield _Part(numbers, start, end)


def _read_whole(read: Callable[[int, int], bytes], part: _Part) -> bytes:
    data = read(part.start, part.end)
    if len(data) < part.end - part.start:
        raise BrokenSegmentError(f"its answers end before byte {part.end}")
    return data


def good_places(folder: StoreFolder, name: str, index: segments.SegmentIndex) -> list[int]:
    """
    Return which answers of a segment can be read.

    :raises FileNotFoundError: if the file of answers is not there.
    """
    columns = _Columns(index)
    places = array("I", filter(columns.is_possible, range(len(index))))
    parts = list(_parts(columns, places))
    good = []
    with folder.parts(segments.data_file(name), len(parts)) as read:
        for part in parts:
            data = read(part.start, part.end)
            for number in part.wanted:
                place = places[number]
                start = columns.offsets[place] - part.start
                with suppress(BrokenSegmentError):
                    columns.body(place, data[start : start + columns.lengths[place]])
                    good.append(place)
    return sorted(good)
