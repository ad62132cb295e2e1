"""
Segments: files of answers, each with an index.

``<name>-<number>-<token>.answers.jsonl`` has a line ``{"key":"<digest in hex>","body":<the answer>}`` for
each answer. ``….index`` has what is known of them, as columns in the order of their digests, and four bytes
with the checksum of it all. The token is drawn anew for each segment, so no file is ever written twice.
"""

from __future__ import annotations

import math
import re
import sys
import uuid
from array import array
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import msgspec

from airflow_provider_openai_batches.exceptions import BrokenSegmentError, NewerSegmentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_openai_batches.answer_store.folder import StoreFolder

VERSION = 1
# A segment is cut at any of these. They bound the memory of whoever writes or reads one.
MAX_ANSWERS = 100_000
MAX_DATA_BYTES = 1 << 28
MAX_GROUPS = 500
MAX_LINE_BYTES = 1 << 26
MAX_GROUP_BYTES = 1 << 15
_MAX_INDEX_BYTES = 1 << 26
_CHECKSUM_BYTES = 4
_INDEX, _DATA = ".index", ".answers.jsonl"
_NAME = re.compile(r"(.+)-\d{5,}-[0-9a-f]{16}")


class AnswerGroup(msgspec.Struct, frozen=True, array_like=True):
    """
    What many answers have in common.

    :param created: when they were stored, in Unix seconds.
    :param metadata: pairs of name and value, in the order of names.
    """

    model: str | None
    created: float
    metadata: tuple[tuple[str, str], ...] = ()


def new_name(writer: str, number: int) -> str:
    """Return a name for a segment that no other one has."""
    return f"{writer}-{number:05d}-{uuid.uuid4().hex[:16]}"


def index_file(name: str) -> str:
    return name + _INDEX


def data_file(name: str) -> str:
    return name + _DATA


def writer_of(name: str) -> str | None:
    """Return the name that the writer of a segment goes by; None if this is no name of a segment."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def segments_in(sizes: Mapping[str, int]) -> list[str]:
    """Return the segments among the files of a folder. One without an index was never completed."""
    return [name for name in _without(_INDEX, sizes) if writer_of(name) is not None]


def incomplete_in(sizes: Mapping[str, int]) -> list[str]:
    """Return the files of answers that have no index: their writers are at work, or died."""
    return [
        data_file(name)
        for name in _without(_DATA, sizes)
        if writer_of(name) is not None and index_file(name) not in sizes
    ]


def _without(ending: str, names: Iterable[str]) -> Iterator[str]:
    return (name.removesuffix(ending) for name in sorted(names) if name.endswith(ending))


def column_of(kind: str, data: bytes) -> array[int]:
    """Return a column as numbers."""
    column: array[int] = array(kind)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def bytes_of(column: array[int]) -> bytes:
    """Return a column as it is stored."""
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


class SegmentIndex(msgspec.Struct, frozen=True):
    """
    The index of a segment: 34 bytes an answer.

    :param firsts: the first halves of the digests, ascending; ``seconds`` are the second halves. All columns
        are arrays as bytes, little-endian.
    :param offsets: where each line begins in the file of answers; ``lengths`` and ``checksums`` are those of
        the lines.
    :param numbers: which of the groups each answer is of.
    """

    version: int
    data_size: int
    groups: list[AnswerGroup]
    firsts: bytes
    seconds: bytes
    offsets: bytes
    lengths: bytes
    checksums: bytes
    numbers: bytes

    def __len__(self) -> int:
        return len(self.firsts) // 8


class _Version(msgspec.Struct):
    version: int


def digest_bytes(first: int, second: int) -> bytes:
    """Return a digest whose halves are these numbers."""
    return first.to_bytes(8, "big") + second.to_bytes(8, "big")


def encode_index(index: SegmentIndex) -> bytes:
    data = msgspec.msgpack.encode(index)
    return data + crc32(data).to_bytes(_CHECKSUM_BYTES, "big")


def decode_index(data: bytes) -> SegmentIndex:
    """
    Return the index that these bytes are.

    :raises BrokenSegmentError: if they are none, or one that cannot be.
    """
    content, checksum = memoryview(data)[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if not content or crc32(content) != int.from_bytes(checksum, "big"):
        raise BrokenSegmentError("its index is damaged")
    try:
        version = msgspec.msgpack.decode(content, type=_Version).version
        if version != VERSION:
            raise NewerSegmentError(f"its index is of version {version}, which this release cannot read")
        index = msgspec.msgpack.decode(content, type=SegmentIndex)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenSegmentError(f"its index is damaged: {error}") from error
    _check_columns(index)
    return index


def _check_columns(index: SegmentIndex) -> None:
    count = len(index)
    columns = (
        (index.firsts, 8),
        (index.seconds, 8),
        (index.offsets, 8),
        (index.lengths, 4),
        (index.checksums, 4),
        (index.numbers, 2),
    )
    if count == 0 or any(len(column) != count * width for column, width in columns):
        raise BrokenSegmentError("the columns of its index differ in length")
    if not index.groups or not all(math.isfinite(group.created) for group in index.groups):
        raise BrokenSegmentError("its index has no groups, or one without a time")
    if len(index.groups) == 1:
        is_known = not any(index.numbers)
    else:
        is_known = max(column_of("H", index.numbers)) < len(index.groups)
    if not is_known:
        raise BrokenSegmentError("its index names a group that it does not have")


class _Reads(Protocol):
    def read(self, name: str, /) -> bytes: ...


def read_index(files: _Reads, name: str, sizes: Mapping[str, int]) -> SegmentIndex:
    """
    Read the index of a segment, whatever its file of answers is like.

    :param sizes: the sizes of the store's files.
    :raises BrokenSegmentError: if it is damaged.
    :raises FileNotFoundError: if it is gone.
    """
    if sizes[index_file(name)] > _MAX_INDEX_BYTES:
        raise BrokenSegmentError("its index is too large")
    return decode_index(files.read(index_file(name)))


def load_index(files: _Reads, name: str, sizes: Mapping[str, int]) -> SegmentIndex:
    """
    Read the index of a segment whose file of answers is as long as it was written.

    :raises BrokenSegmentError: if one of the two is damaged.
    :raises FileNotFoundError: if one of the two is gone.
    """
    index = read_index(files, name, sizes)
    size = sizes.get(data_file(name))
    if size is None:
        raise FileNotFoundError(data_file(name))
    if size != index.data_size:
        raise BrokenSegmentError(
            f"{data_file(name)} has {size} bytes, but was written with {index.data_size}"
        )
    return index


def delete(folder: StoreFolder, name: str) -> None:
    """Delete a segment; its index goes first, so that nobody finds half of it."""
    folder.remove(index_file(name))
    folder.remove(data_file(name))
