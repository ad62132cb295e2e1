"""What requests are known by: a digest of endpoint and body; and the digests of the rows of a job."""

from __future__ import annotations

from array import array
from hashlib import sha256
from itertools import chain, compress
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST_BYTES = 16
# Rows are kept by the first bits of their digests. More buckets would cost more memory than they have rows.
_BUCKET_BITS = 5
BUCKETS = 1 << _BUCKET_BITS
# A row and its digest in memory. Packing cuts a digest to its first half.
_IN_BYTES, _IN_NUMBERS = Struct(">I16s"), Struct(">IQQ")
_RECORD_BYTES = _IN_BYTES.size
_pack = _IN_BYTES.pack
_SHIFT = 8 - _BUCKET_BITS
# Row, and both halves of its digest as numbers.
Record: TypeAlias = tuple[int, int, int]


def digest_of(endpoint: str, body: bytes) -> bytes:
    """
    Return the first 16 bytes of the SHA-256 of endpoint and body.

    :param endpoint: such as ``/v1/responses``; it has no line break, so it is clear where the body begins.
    :param body: the body as it is sent, encoded as JSON.
    """
    return sha256(b"%b\n%b" % (endpoint.encode(), body)).digest()[:DIGEST_BYTES]


def bucket_start(bucket: int) -> int:
    """Return the lowest first half that a digest in this bucket can have."""
    return bucket << (64 - _BUCKET_BITS)


class RowDigests:
    """The digests of a job's rows, in memory at 23 bytes a row."""

    def __init__(self, endpoint: str) -> None:
        self._new = sha256(endpoint.encode() + b"\n").copy  # a little quicker than to join endpoint and body
        self._buckets = [bytearray() for _ in range(BUCKETS)]

    def add(self, row: int, body: bytes) -> None:
        """Add a row; rows come in ascending order, but not each has to come."""
        hashing = self._new()
        hashing.update(body)
        digest = hashing.digest()
        self._buckets[digest[0] >> _SHIFT] += _pack(row, digest)

    def __len__(self) -> int:
        return sum(map(len, self._buckets)) // _RECORD_BYTES

    @property
    def end(self) -> int:
        """The number after that of the last row."""
        return max(
            (_IN_NUMBERS.unpack(bucket[-_RECORD_BYTES:])[0] + 1 for bucket in self._buckets if bucket),
            default=0,
        )

    def records(self, first: int, last: int) -> Iterator[Record]:
        """Return the records in these buckets, without the last one; in each, rows ascend."""
        return chain.from_iterable(map(_IN_NUMBERS.iter_unpack, self._buckets[first:last]))

    def repeats(self) -> array[int]:
        """Return row, first row, row, first row, …, ascending, of rows whose body an earlier row has."""
        end = self.end
        firsts = array("I", [0]) * end  # each is one more than the row, so that 0 is none
        for bucket in self._buckets:
            seen: dict[bytes, int] = {}
            note = seen.setdefault
            for row, digest in _IN_BYTES.iter_unpack(bucket):
                first = note(digest, row)
                if first != row:
                    firsts[row] = first + 1
        rows = array("I", compress(range(end), firsts))
        pairs = array("I", [0]) * (2 * len(rows))
        pairs[::2] = rows
        pairs[1::2] = array("I", (first - 1 for first in compress(firsts, firsts)))
        return pairs
