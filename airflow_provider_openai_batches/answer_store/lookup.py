"""
Finds the answers to a job's rows.

First the rows' digests are compared with those of all segments, of which only the first halves are in memory.
Then the segments with answers are read one by one, in the order of their lines.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.answer_store.digests import BUCKETS, bucket_start
from airflow_provider_openai_batches.answer_store.folder import FetchedFiles
from airflow_provider_openai_batches.answer_store.reading import Wanted, read_lines
from airflow_provider_openai_batches.exceptions import BrokenSegmentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_openai_batches.answer_store.digests import Record, RowDigests
    from airflow_provider_openai_batches.answer_store.folder import StoreFolder
    from airflow_provider_openai_batches.api.retry import Log

_ROWS_AT_ONCE = 16_384  # in a dict, at 200 bytes a row
_FETCHED_AT_ONCE = 8


class _Column:
    """
    What is in memory of a segment while rows are looked for.

    :param created: when the answers of each group were stored.
    """

    def __init__(self, name: str, index: segments.SegmentIndex) -> None:
        self.name = name
        self.firsts = segments.column_of("Q", index.firsts)
        self.created = [group.created for group in index.groups]
        self.newest = max(self.created)
        is_mixed = min(self.created) < self.newest
        self.numbers = segments.column_of("H", index.numbers) if is_mixed else None
        self.begin = 0  # of what was not compared yet
        self.wanted = Wanted()

    def matches(self, keys: dict[int, Record], end: int) -> dict[int, int]:
        """Return which of the keys below ``end`` the segment has, and where."""
        begin, self.begin = self.begin, bisect_left(self.firsts, end, self.begin)
        part = self.firsts[begin : self.begin]
        mask = bytes(map(keys.__contains__, part))
        if 1 not in mask:
            return {}
        return dict(zip(compress(part, mask), compress(range(begin, self.begin), mask), strict=True))

    def created_at(self, place: int) -> float:
        return self.newest if self.numbers is None else self.created[self.numbers[place]]


class _Candidate(NamedTuple):
    created: float
    column: _Column
    place: int


class _Step:
    """Some of the rows, and the answers that are found to them. Rows with equal bodies share an answer."""

    def __init__(self, records: Iterator[Record], found: bytearray) -> None:
        self.keys: dict[int, Record] = {}
        self._copies: dict[int, list[Record]] = {}
        self._candidates: dict[int, _Candidate] = {}
        note = self.keys.setdefault
        for record in records:
            if not found[record[0]] and (other := note(record[1], record)) is not record:
                self._copies.setdefault(other[1], []).append(record)

    def take(self, column: _Column, matches: dict[int, int], since: float, newest_left: float) -> None:
        """
        Take the answers that a segment has.

        :param newest_left: the time of the newest answer in the segments that are still to come.
        """
        if column.numbers is None and not self._candidates:
            self._assign(column, matches)
            return
        for key, place in matches.items():
            created, known = column.created_at(place), self._candidates.get(key)
            if created >= since and (known is None or created > known.created):
                self._candidates[key] = known = _Candidate(created, column, place)
            if known is not None and known.created >= newest_left:
                del self._candidates[key]
                self._assign(known.column, {key: known.place})

    def finish(self) -> None:
        """Take what was not known to be the newest before all segments were compared."""
        for key, known in self._candidates.items():
            self._assign(known.column, {key: known.place})

    def _assign(self, column: _Column, matches: dict[int, int]) -> None:
        records = list(map(self.keys.pop, matches))
        column.wanted.extend(matches.values(), records)
        if self._copies:
            for key in self._copies.keys() & matches.keys():
                copies = self._copies.pop(key)
                column.wanted.extend([matches[key]] * len(copies), copies)


class Lookup:
    """
    One search for the answers to a job's rows.

    If segments are deleted meanwhile, because they were put together, or turn out to be broken, the rows that
    were expected there are looked for once more in all others.
    """

    def __init__(self, folder: StoreFolder, rows: RowDigests, *, since: float, log: Log) -> None:
        self._folder, self._rows, self._since, self._log = folder, rows, since, log
        self._found = bytearray(rows.end)
        self._sizes: dict[str, int] = {}
        self._gone: set[str] = set()
        self._late: set[str] = set()
        self._is_complete = False
        self.broken: list[str] = []
        self.answers = 0

    def run(self) -> Iterator[tuple[int, bytes]]:
        if not len(self._rows):
            return
        with FetchedFiles(self._folder) as files:
            while not self._is_complete:
                self._is_complete = True
                for name, wanted in self._compare(self._columns(files)):
                    yield from self._read(files, name, wanted)

    def _columns(self, files: FetchedFiles) -> list[_Column]:
        """Read the first halves of all digests; the segment with the newest answer comes first."""
        self._sizes = self._folder.sizes()
        skipped = self._gone.union(self.broken)
        names = [name for name in segments.segments_in(self._sizes) if name not in skipped]
        with ThreadPoolExecutor(1 if self._folder.directory else _FETCHED_AT_ONCE) as pool:
            loaded = pool.map(partial(self._column, files), names)
            columns = [column for column in loaded if column is not None]
        self.answers = sum(len(column.firsts) for column in columns)
        usable = [column for column in columns if column.newest >= self._since]
        return sorted(usable, key=lambda column: (-column.newest, column.name))

    def _column(self, files: FetchedFiles, name: str) -> _Column | None:
        try:
            return _Column(name, segments.load_index(files, name, self._sizes))
        except (BrokenSegmentError, FileNotFoundError) as error:
            self._skip(name, error)
        return None

    def _skip(self, name: str, error: BrokenSegmentError | FileNotFoundError) -> None:
        """Leave a segment out from now on."""
        if isinstance(error, FileNotFoundError):
            if segments.index_file(name) not in (present := self._folder.sizes()):
                self._gone.add(name)
                self._is_complete = False
                return
            if segments.data_file(name) in present and name not in self._late:
                self._late.add(name)  # it was completed while the store was listed
                self._is_complete = False
                return
            error = BrokenSegmentError(f"{segments.data_file(name)} is missing")
        self.broken.append(name)
        self._log.error(
            "Segment %s of the store of answers %s is broken and is left out: %s. Rows that have no answer "
            "elsewhere are asked. Delete it with: airflow openai-batches answers forget %s --broken",
            name,
            self._folder.path,
            error,
            self._folder.path,
        )

    def _compare(self, columns: Sequence[_Column]) -> Iterator[tuple[str, Wanted]]:
        """Yield which answers of which segment are wanted."""
        if not columns:
            return
        steps = min(BUCKETS, 1 << max(0, len(self._rows) // _ROWS_AT_ONCE).bit_length())
        width = BUCKETS // steps
        for first in range(0, BUCKETS, width):
            step = _Step(self._rows.records(first, first + width), self._found)
            for number, column in enumerate(columns):
                if not step.keys:
                    break
                matches = column.matches(step.keys, bucket_start(first + width))
                if matches:
                    newest_left = columns[number + 1].newest if number + 1 < len(columns) else 0.0
                    step.take(column, matches, self._since, newest_left)
            step.finish()
        found = [(column.name, column.wanted) for column in columns if column.wanted.places]
        for column in columns:  # what is no longer needed makes room for the lines
            column.firsts, column.numbers = array("Q"), None
        yield from found

    def _read(self, files: FetchedFiles, name: str, wanted: Wanted) -> Iterator[tuple[int, bytes]]:
        try:
            index = segments.load_index(files, name, self._sizes)
            for row, body in read_lines(self._folder, name, index, wanted):
                self._found[row] = 1
                yield row, body
        except (BrokenSegmentError, FileNotFoundError) as error:
            self._is_complete = False
            self._skip(name, error)
