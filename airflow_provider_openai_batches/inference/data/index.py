"""Where each row's result is, in the downloaded files of all batches of a job, at 18 bytes a row."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Protocol

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.findings import (
    INVALID,
    LASTING,
    NOTHING,
    OPEN,
    OPEN_OR_INVALID,
    PAID,
    Scan,
    Scanner,
    Table,
)
from airflow_provider_openai_batches.inference.data.job import read_ids, read_runs
from airflow_provider_openai_batches.inference.data.outcomes import MISSING
from airflow_provider_openai_batches.inference.data.repeats import REPEATS_FILE, Repeats, read_repeats
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_openai_batches.inference.data.findings import Findings
    from airflow_provider_openai_batches.inference.data.job import Job, LivePart, Shard
    from airflow_provider_openai_batches.inference.data.outcomes import RowError
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.storage import AnyPath


# How often a row was asked is counted in one byte.
MOST_ROUNDS = 254


class Copies(Protocol):
    """Where the job's files are kept if its directory holds only copies of them."""

    def fetch(self, names: Iterable[str]) -> None:
        """Copy these files to the directory unless they are there."""

    def drop(self, names: Iterable[str]) -> None:
        """Take note that these are not needed for now; they may be removed from the directory."""


class ResultIndex:
    """
    The best result of each row so far.

    :param work: the directory of the job.
    :param retry_invalid: a schema; rows whose answers do not match it are to be asked again.
    :param copies: brings files to the directory while they are needed; without it they must be there, and
        stay until the parts are written.
    """

    def __init__(
        self,
        job: Job,
        work: str | AnyPath,
        *,
        retry_invalid: OutputSchema | None = None,
        copies: Copies | None = None,
    ) -> None:
        self.job, self.work, self._copies = job, as_path(work), copies
        self.files: list[AnyPath] = []
        self.last_rows: list[int] = []  # of each file: no result of a later row is in it
        self.rejections: dict[int, RowError] = {}
        self.scan = Scan()
        self.unreadable = array("Q")  # file, offset and length of each such line, one after the other
        self._noted: set[int] = set()
        self._scanner = Scanner(job, self.work, retry_invalid=retry_invalid)
        self._opened = OPEN if retry_invalid is None else OPEN_OR_INVALID
        self._table = Table(job.rows)
        self._asked = bytearray(job.rows)  # how many times; saturated
        self.live_files: set[int] = set()  # the numbers of those with live answers
        self.stored_files: set[int] = set()  # of those with answers from a store, which this job does not pay
        self.nothing = MISSING  # what became of rows that have no line
        if job.repeats:
            self.fetch(REPEATS_FILE)
        self.repeats = Repeats(read_repeats(self.work, job), job.rows)

    @property
    def superseded(self) -> array[int]:
        return self._table.superseded

    def add(self, shard: Shard, paths: Iterable[str | AnyPath], *, counts: bool = True) -> Scan:
        """
        Note all result lines of a shard's batch; call it once for each batch.

        :param paths: its downloaded output file and error file: one of them, both or neither.
            They belong on a disk where random access is cheap.
        :param counts: whether its rows count as asked once more.
        """
        files = [as_path(path) for path in paths]
        for path in files:
            self.fetch(path.name)
        findings = self._scanner.scan(shard, files)
        for path in files:
            self.drop(path.name)
        self.take(shard, files, findings, counts=counts)
        return findings.scan

    def add_live(self, part: LivePart, paths: list[AnyPath]) -> None:
        """Note the live answers to the rows of a part; they are no round of their own."""
        first = len(self.files)
        self.add(part.as_shard, paths, counts=False)
        self.live_files.update(range(first, len(self.files)))

    def take(self, shard: Shard, paths: list[AnyPath], findings: Findings, *, counts: bool = True) -> None:
        """Note what was found in the files of a shard's batch."""
        base = len(self.files)
        self.files.extend(paths)
        self.last_rows.extend(shard.last_row for _ in paths)
        rows, offsets, lengths = array("I"), array("Q"), array("I")
        for column, stored in (
            (rows, findings.rows),
            (offsets, findings.offsets),
            (lengths, findings.lengths),
        ):
            column.frombytes(stored)
        number = len(rows)
        first, end = (rows[0], rows[-1] + 1) if number else (0, 0)
        table = self._table
        if end - first == number == table.state.count(NOTHING, first, end):  # in one piece, and all new
            table.state[first:end] = findings.states
            table.file[first:end] = array("I", [base + file for file in findings.files])
            table.offset[first:end], table.length[first:end] = offsets, lengths
        else:
            found = zip(rows, findings.states, findings.files, offsets, lengths, strict=True)
            for row, state, file, offset, length in found:
                table.note(row, state, base + file, offset, length)
        for own, stored in ((self.unreadable, findings.unreadable), (table.superseded, findings.superseded)):
            own.extend(_moved(stored, base))
        if self.repeats:
            self._share(rows)
        self.scan.add(findings.scan)
        self._noted.add(shard.index)
        if counts:
            self._count(shard, rows)

    def take_stored(self, paths: list[AnyPath], findings: Findings, last_row: int) -> None:
        """
        Note answers from a store; add them last. A row that this job has paid for keeps its own answer.

        :param last_row: that of the job's part.
        """
        base, table = len(self.files), self._table
        self.files.extend(paths)
        self.last_rows.extend(last_row for _ in paths)
        self.stored_files.update(range(base, len(self.files)))
        for row, number, offset, length in findings.places():
            if table.state[row] < PAID and self.repeats.first_of(row) == row:
                table.note(row, PAID, base + number, offset, length)

    def _share(self, rows: array[int]) -> None:
        """Give what came for repeats, which an earlier try may have asked, to the rows that they repeat."""
        table = self._table
        for row, first in self.repeats.among(rows):
            if state := table.state[row]:
                table.note(first, state, table.file[row], table.offset[row], table.length[row])
                table.state[row] = NOTHING

    def _count(self, shard: Shard, found: array[int]) -> None:
        asked = self._asked
        if shard.is_found:
            for row in found:
                asked[row] = min(asked[row] + 1, 255)
            return
        for row, given in read_runs(self.work, shard):
            end = row + (1 if isinstance(given, str) else given)
            if shard.round == 0:
                asked[row:end] = b"\1" * (end - row)
            else:
                for each in range(row, end):
                    asked[each] = min(asked[each] + 1, 255)

    def reject(self, shard: Shard, error: RowError) -> None:
        """Note that the service rejected the whole batch: nothing ran, and nothing is to be asked again."""
        self.rejections[len(self.files)] = error
        for row, _ in read_ids(self.work, shard):
            self._table.note(row, LASTING, len(self.files), 0, 0)
        self.files.append(None)
        self.last_rows.append(shard.last_row)
        self._noted.add(shard.index)

    @property
    def are_copies(self) -> bool:
        """Whether the files in the directory are copies, which may be removed."""
        return self._copies is not None

    def fetch(self, name: str) -> None:
        """Have a file of the job in its directory."""
        if self._copies is not None:
            self._copies.fetch([name])

    def drop(self, name: str) -> None:
        """Say that a file is not needed for now."""
        if self._copies is not None:
            self._copies.drop([name])

    def location(self, row: int) -> tuple[int, int, int, int]:
        """Return the state of the row, and file number, offset and length of its best line if it has one."""
        table, row = self._table, self.repeats.first_of(row)
        return table.state[row], table.file[row], table.offset[row], table.length[row]

    def source(self, row: int) -> str | None:
        """Say where the row's result is from; None if nothing came."""
        state, number, _, _ = self.location(row)
        if state == NOTHING:
            return None
        if self.repeats.first_of(row) != row:
            return "duplicate"
        return "live" if number in self.live_files else "store" if number in self.stored_files else "batch"

    @property
    def live_rows(self) -> int:
        """How many rows have their best answer in a live file."""
        found = zip(self._table.state, self._table.file, strict=True)
        return sum(state >= INVALID and number in self.live_files for state, number in found)

    def is_unfinished(self, row: int) -> bool:
        """Whether the row is to be asked again: nothing usable came, and asking again may help."""
        return self.repeats.first_of(row) == row and bool(self._opened[self._table.state[row]])

    @property
    def unfinished(self) -> int:
        """How many rows are to be asked again."""
        opened = self._table.state.translate(self._opened)
        return sum(opened) - sum(opened[row] for row in self.repeats.rows)

    def open_rows(self, max_rounds: int = MOST_ROUNDS) -> bytearray:
        """
        Return for each row 1 if it is to be asked again now, and 0 otherwise.

        Rows of shards that were not added may still get an answer there.

        :param max_rounds: how many times a row may be asked again.
        """
        wanted = self._table.state.translate(self._opened)
        for row in self.repeats.rows:
            wanted[row] = 1
        for shard in self.job.shards:
            if shard.index in self._noted:
                continue
            if shard.is_found:  # it may be about any row
                return bytearray(self.job.rows)
            for row, given in read_runs(self.work, shard):
                end = row + (1 if isinstance(given, str) else given)
                wanted[row:end] = bytes(end - row)
        for row in self.repeats.rows:  # what is still to come for them is for the rows that they repeat
            wanted[self.repeats.first_of(row)] &= wanted[row]
            wanted[row] = 0
        for row in _places(wanted):
            if self._asked[row] > min(max_rounds, MOST_ROUNDS):
                wanted[row] = 0
        return wanted

    def is_new(self, row: int) -> bool:
        """Whether the row was never asked."""
        return not self._asked[row]

    def times_asked(self, wanted: bytearray) -> int:
        """Return how many times the one of these rows was asked that was asked most often."""
        return max((self._asked[row] for row in _places(wanted)), default=0)

    def check_complete(self) -> None:
        """
        Make sure that no shard was forgotten: its rows would be lost.

        :raises InvalidInputError: if the results of a shard were not added.
        """
        forgotten = [str(shard.index) for shard in self.job.shards if shard.index not in self._noted]
        if forgotten:
            raise InvalidInputError(
                f"The results of the shards {', '.join(forgotten)} were not added to the index"
            )


def _moved(stored: bytes, base: int) -> array[int]:
    """Return triples of file, offset and length with the numbers that the files have in the whole job."""
    triples = array("Q")
    triples.frombytes(stored)
    if triples:
        triples[::3] = array("Q", [base + number for number in triples[::3]])
    return triples


def _places(marks: bytearray) -> Iterator[int]:
    """Yield the places of all ones."""
    place = marks.find(1)
    while place >= 0:
        yield place
        place = marks.find(1, place + 1)
