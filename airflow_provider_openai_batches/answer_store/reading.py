"""Reads lines of a segment: in the order of the file, several at once, each one checked."""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.exceptions import BrokenSegmentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_provider_openai_batches.answer_store.digests import Record
    from airflow_provider_openai_batches.answer_store.folder import StoreFolder

# How many bytes are read at once, and how many that nobody needs are read along rather than to read again: on
# a disk, and in an object store, where another request takes longer.
_PART_BYTES, _GAP_BYTES = 1 << 20, 1 << 15
_REMOTE_PART_BYTES, _REMOTE_GAP_BYTES = 1 << 23, 1 << 20


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
            found = _decode(line)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise BrokenSegmentError(
                f"the line at byte {self.offsets[place]} cannot be read: {error}"
            ) from error
        if found.key != f"{self.firsts[place]:016x}{self.seconds[place]:016x}":
            raise BrokenSegmentError(f"the line at byte {self.offsets[place]} is about another request")
        answer = bytes(found.body)
        if b"\n" in answer:
            raise BrokenSegmentError(f"the answer at byte {self.offsets[place]} has more than one line")
        return answer


class _Part:
    """Lines that are read at once: numbers of what is wanted, and the bytes from where to where."""

    def __init__(self, start: int, end: int) -> None:
        self.wanted: list[int] = []
        self.start, self.end = start, end


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
    offsets, lengths, expected = columns.offsets, columns.lengths, columns.seconds
    for place in places:
        if not columns.is_possible(place):
            raise BrokenSegmentError("its index names a line that cannot be")
    parts = _parts(columns, places, is_local=folder.directory is not None)
    with folder.parts(segments.data_file(name), index.data_size, len(parts)) as read:
        for part in parts:
            data = read(part.start, part.end)  # if it is too short, a line is not as it was written
            for number in part.wanted:
                place = places[number]
                if expected[place] == seconds[number]:  # else the two digests have one first half
                    start = offsets[place] - part.start
                    yield rows[number], columns.body(place, data[start : start + lengths[place]])


def _parts(columns: _Columns, places: array[int], *, is_local: bool) -> list[_Part]:
    offsets = array("Q", map(columns.offsets.__getitem__, places))
    lengths = array("I", map(columns.lengths.__getitem__, places))
    gap = _GAP_BYTES if is_local else _REMOTE_GAP_BYTES
    most = _PART_BYTES if is_local else _REMOTE_PART_BYTES
    parts: list[_Part] = []
    part, limit = _Part(0, 0), -1
    for number in sorted(range(len(places)), key=offsets.__getitem__):
        begins = offsets[number]
        ends = begins + lengths[number]
        if begins > part.end + gap or ends > limit:
            part, limit = _Part(begins, ends), begins + most
            parts.append(part)
        part.wanted.append(number)
        part.end = max(part.end, ends)
    return parts


def good_places(folder: StoreFolder, name: str, index: segments.SegmentIndex) -> list[int]:
    """
    Return which answers of a segment can be read.

    :raises FileNotFoundError: if the file of answers is not there.
    """
    columns = _Columns(index)
    places = array("I", filter(columns.is_possible, range(len(index))))
    parts = _parts(columns, places, is_local=folder.directory is not None)
    good = []
    with folder.parts(segments.data_file(name), index.data_size, len(parts)) as read:
        for part in parts:
            data = read(part.start, part.end)
            for number in part.wanted:
                place = places[number]
                start = columns.offsets[place] - part.start
                with suppress(BrokenSegmentError):
                    columns.body(place, data[start : start + columns.lengths[place]])
                    good.append(place)
    return sorted(good)
