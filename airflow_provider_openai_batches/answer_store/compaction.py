"""
Which answers of a store have a newer double, and which segments are put together.

Two compactions, or one beside a job that writes, see different segments. An answer is dropped only for a
newer one, or for an equally old one that the same compaction writes: so of each answer, one of the newest
stays, whoever moves it meanwhile.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import chain, compress
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.answer_store.digests import BUCKETS, bucket_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_FULL = 0.5  # a segment that has so much of what one may have is not put together with others


class Member:
    """
    A segment, as far as doubles are concerned; 18 bytes an answer.

    :param dropped: for each answer, 1 if there is a newer one.
    :param trusted: answers for which others are dropped.
    :param has_ties: whether another segment has an equally old double of one of its answers.
    """

    def __init__(self, name: str, index: segments.SegmentIndex) -> None:
        self.name = name
        self.firsts = segments.column_of("Q", index.firsts)
        self.seconds = segments.column_of("Q", index.seconds)
        self.numbers = segments.column_of("H", index.numbers)
        self.created = [group.created for group in index.groups]
        self.dropped = bytearray(len(index))
        self.trusted = array("I")
        self.has_ties = False
        self.is_small = (
            max(
                len(index) / segments.MAX_ANSWERS,
                index.data_size / segments.MAX_DATA_BYTES,
                len(index.groups) / segments.MAX_GROUPS,
            )
            < _FULL
        )
        self._begin = 0

    @property
    def has_doubles(self) -> bool:
        return self.has_ties or any(self.dropped)

    def next_places(self, end: int) -> range:
        """Return the places of the digests below ``end`` that were not returned yet."""
        begin, self._begin = self._begin, bisect_left(self.firsts, end, self._begin)
        return range(begin, self._begin)

    def digest(self, place: int) -> bytes:
        return segments.digest_bytes(self.firsts[place], self.seconds[place])

    def created_at(self, place: int) -> float:
        return self.created[self.numbers[place]]


class Plan:
    """
    What a compaction does.

    :param ties: digests of answers of which equally old doubles are written once.
    :param rewritten: the segments that are replaced.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = {member.name: member for member in members}
        self.ties: set[bytes] = set()
        for bucket in range(BUCKETS):
            self._compare([(member, member.next_places(bucket_start(bucket + 1))) for member in members])
        small = [member for member in members if member.is_small]
        self.rewritten = [
            member.name
            for member in members
            if member.has_doubles or (member.is_small and (len(small) > 1 or small[0].has_doubles))
        ]

    def kept(self, name: str) -> list[int]:
        """Return which answers of a segment have no newer double."""
        return [place for place, is_dropped in enumerate(self.members[name].dropped) if not is_dropped]

    def relied_on(self) -> Iterator[Member]:
        """Yield the segments that are not rewritten, but for whose answers others are dropped."""
        rewritten = set(self.rewritten)
        return (member for member in self.members.values() if member.trusted and member.name not in rewritten)

    def _compare(self, slices: Iterable[tuple[Member, range]]) -> None:
        parts = [(member, places, member.firsts[places.start : places.stop]) for member, places in slices]
        counts = Counter(chain.from_iterable(part for _, _, part in parts))
        often = {first for first, count in counts.items() if count > 1}
        if not often:
            return
        found: dict[bytes, list[tuple[Member, int]]] = defaultdict(list)
        for member, places, part in parts:
            for place in compress(places, map(often.__contains__, part)):
                found[member.digest(place)].append((member, place))
        for digest, doubles in found.items():
            if len(doubles) > 1:
                self._settle(digest, doubles)

    def _settle(self, digest: bytes, doubles: Sequence[tuple[Member, int]]) -> None:
        newest = max(member.created_at(place) for member, place in doubles)
        best = []
        for member, place in doubles:
            if member.created_at(place) < newest:
                member.dropped[place] = 1
            else:
                best.append(member)
                member.trusted.append(place)
        if len(best) > 1:
            self.ties.add(digest)
            for member in best:
                member.has_ties = True
