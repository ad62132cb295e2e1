"""
What the result files of one batch hold.

They are scanned once, when the batch is over. What was found is kept in a small file, so that no later
process has to scan them again.
"""

from __future__ import annotations

from array import array
from http import HTTPStatus
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.inference.data.job import read_runs, row_of_default_id
from airflow_provider_openai_batches.inference.data.lines import body_of, classify, decode_line, read_line
from airflow_provider_openai_batches.inference.data.results import AnswerReader
from airflow_provider_openai_batches.storage import open_binary, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.data.lines import RawLine
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.storage import AnyPath

# What is known about a row. A better state replaces a worse one, in whatever order the lines come.
NOTHING, PASSING, LASTING, INVALID, PAID = range(5)
_OK = int(HTTPStatus.OK)
# 1 for each state of a row that is to be asked again, without and with those whose answers are invalid.
OPEN = bytes(state in {NOTHING, PASSING} for state in range(256))
FINAL = bytes(state > PASSING for state in range(256))
OPEN_OR_INVALID = bytes(state in {NOTHING, PASSING, INVALID} for state in range(256))


class Scan(msgspec.Struct):
    """
    What one batch's files held.

    :param lines: lines that can be read.
    :param unreadable: lines that are not JSON objects with a ``custom_id``; some may show whose they are.
    :param unknown: lines for requests that the batch does not have.
    :param duplicates: lines for requests that already had one in the same batch.
    """

    lines: int = 0
    unreadable: int = 0
    unknown: int = 0
    duplicates: int = 0

    def add(self, other: Scan) -> None:
        for field in self.__struct_fields__:
            setattr(self, field, getattr(self, field) + getattr(other, field))


class Table:
    """
    The best line of each of some consecutive rows, at 17 bytes a row.

    ``superseded`` has file, offset and length of answers that were paid for but are not used, one after the
    other.
    """

    def __init__(self, rows: int) -> None:
        self.state = bytearray(rows)
        self.file, self.length = array("I", [0]) * rows, array("I", [0]) * rows
        self.offset = array("Q", [0]) * rows
        self.superseded = array("Q")

    def note(self, place: int, state: int, number: int, offset: int, length: int) -> None:
        known = self.state[place]
        if state < known or state == known >= INVALID:  # the latest failure counts, but the first answer
            if state >= INVALID:
                self.superseded.extend((number, offset, length))
            return
        if known >= INVALID:
            self.superseded.extend((self.file[place], self.offset[place], self.length[place]))
        self.state[place], self.file[place] = state, number
        self.offset[place], self.length[place] = offset, length


class Found(NamedTuple):
    """What was found while files are scanned, see :class:`Findings`."""

    table: Table
    unreadable: array[int]
    scan: Scan


class Findings(msgspec.Struct):
    """
    What the result files of one shard's batch hold, in the order of the rows; 18 bytes for each row found.

    :param rows: the row numbers; ``states``, ``files`` (0 for the first file, 1 for the second), ``offsets``
        and ``lengths`` are those of each row's best line. All are arrays as bytes.
    :param unreadable: file, offset and length of each such line; ``superseded`` as in the table.
    :param has_checked: whether answers were checked against a schema.
    """

    rows: bytes
    states: bytes
    files: bytes
    offsets: bytes
    lengths: bytes
    unreadable: bytes
    superseded: bytes
    scan: Scan
    has_checked: bool

    @classmethod
    def of(cls, found: Found, first: int, *, has_checked: bool) -> Findings:
        table, unreadable, scan = found
        states = table.state
        return cls(
            rows=array("I", compress(range(first, first + len(states)), states)).tobytes(),
            states=bytes(compress(states, states)),
            files=bytes(compress(table.file, states)),
            offsets=array("Q", compress(table.offset, states)).tobytes(),
            lengths=array("I", compress(table.length, states)).tobytes(),
            unreadable=unreadable.tobytes(),
            superseded=table.superseded.tobytes(),
            scan=scan,
            has_checked=has_checked,
        )

    @classmethod
    def none(cls, *, has_checked: bool) -> Findings:
        """Return what there is in no file."""
        return cls.of(Found(Table(0), array("Q"), Scan()), 0, has_checked=has_checked)

    def row_numbers(self) -> array[int]:
        rows = array("I")
        rows.frombytes(self.rows)
        return rows

    def places(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield row, file, offset and length of each row's best line."""
        offsets, lengths = array("Q"), array("I")
        offsets.frombytes(self.offsets)
        lengths.frombytes(self.lengths)
        return zip(self.row_numbers(), self.files, offsets, lengths, strict=True)

    def unfinished(self, requests: int) -> int:
        """
        Return how many of the shard's rows may be asked again.

        :param requests: how many the shard has.
        """
        opened = OPEN_OR_INVALID if self.has_checked else OPEN
        return requests - len(self.states) + sum(self.states.translate(opened))

    def final_rows(self) -> Iterator[int]:
        """Yield the numbers of the rows that another request would not help, or that were paid for."""
        return compress(self.row_numbers(), self.states.translate(FINAL))

    def save(self, path: AnyPath) -> None:
        with whole(path) as handle:
            handle.write(msgspec.msgpack.encode(self))

    @classmethod
    def load(cls, path: AnyPath) -> Findings | None:
        """Return None if there are none, or they cannot be read: the result files can be scanned again."""
        if not path.exists():
            return None
        try:
            with open_binary(path) as handle:
                return msgspec.msgpack.decode(handle.read(), type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


class Scanner:
    """
    Reads the result files of a job's batches.

    :param retry_invalid: a schema; answers that do not match it are to be asked for again.
    """

    def __init__(self, job: Job, work: AnyPath, *, retry_invalid: OutputSchema | None = None) -> None:
        self._job, self._work = job, work
        self._spec = spec_of(job.endpoint)
        self._reader = AnswerReader(self._spec, schema=retry_invalid) if retry_invalid else None
        self._is_plain = self._reader is None and not self._spec.can_fail_inside

    def scan(self, shard: Shard, paths: Iterable[AnyPath]) -> Findings:
        """Find the best line of each row in the result files of a shard's batch."""
        rows = _ShardRows(self._job, self._work, shard)
        found = Found(Table(len(rows)), array("Q"), Scan())
        for number, path in enumerate(paths):
            self._scan_file(number, path, rows, found)
        return Findings.of(found, rows.first, has_checked=self._reader is not None)

    def _scan_file(self, number: int, path: AnyPath, rows: _ShardRows, found: Found) -> None:
        offset, (table, unreadable, scan) = 0, found
        with open_binary(path) as lines:
            for data in lines:
                length = len(data)
                line: RawLine | None
                try:  # nearly always; what is odd about the rest takes longer to read
                    line = decode_line(data)
                except (ValueError, msgspec.MsgspecError, RecursionError):
                    line = read_line(data)
                if line is not None:
                    if line.is_cut:
                        scan.unreadable += 1
                        unreadable.extend((number, offset, length))
                    else:
                        scan.lines += 1
                    place = rows.find(line.custom_id)
                    if place is None:
                        scan.unknown += 1
                    else:
                        scan.duplicates += rows.see(place)
                        table.note(place, self._state_of(line), number, offset, length)
                elif not data.isspace():
                    scan.unreadable += 1
                    unreadable.extend((number, offset, length))
                offset += length

    def _state_of(self, line: RawLine) -> int:
        if self._is_plain and line.response is not None and line.response.status_code == _OK:
            return PAID  # nearly always; the code below says the same, but takes three times as long
        outcome = classify(line, self._spec)
        if outcome.status != "succeeded":
            return PASSING if outcome.retryable else LASTING
        if self._reader is None or line.response is None:
            return PAID
        invalid = self._reader.read(body_of(line.response)).outcome.status == "invalid_output"
        return INVALID if invalid else PAID


class _ShardRows:
    """
    The rows of one shard by custom_id, and which of them were seen; ``place`` is counted from its first row.

    A default id contains its row number, so only given ids are kept in memory, at 160 bytes each.
    """

    def __init__(self, job: Job, work: AnyPath, shard: Shard) -> None:
        shards = job.shards_over(shard) if shard.is_found else [shard]
        self.first = min(each.first_row for each in shards)
        size = max(each.last_row for each in shards) - self.first + 1
        self._seen, self._numbered = bytearray(size), bytearray(size)
        self._named: dict[str, int] = {}
        for each in shards:
            self._read(work, each)

    def _read(self, work: AnyPath, shard: Shard) -> None:
        for row, given in read_runs(work, shard):
            place = row - self.first
            if isinstance(given, str):
                self._named[given] = place
            else:
                self._numbered[place : place + given] = b"\1" * given

    def __len__(self) -> int:
        return len(self._seen)

    def find(self, custom_id: str) -> int | None:
        """Return the place of the row; None if the shard has no row with this custom_id."""
        row = row_of_default_id(custom_id)
        if (
            row is not None
            and 0 <= (place := row - self.first) < len(self._numbered)
            and self._numbered[place]
        ):
            return place
        return self._named.get(custom_id)

    def see(self, place: int) -> bool:
        """Note that the row was seen, and return whether it was before."""
        before, self._seen[place] = self._seen[place], 1
        return bool(before)
