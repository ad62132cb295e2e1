"""Where each row's result is, in the downloaded files of any number of rounds, at 17 bytes a row."""

from __future__ import annotations

from array import array
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import read_ids, read_runs, row_of_default_id
from airflow_provider_openai_batches.inference.data.lines import body_of, classify, decode_line, read_line
from airflow_provider_openai_batches.inference.data.results import AnswerReader
from airflow_provider_openai_batches.storage import as_path, open_binary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.data.lines import RawLine
    from airflow_provider_openai_batches.inference.data.outcomes import RowError
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
    from airflow_provider_openai_batches.storage import AnyPath

# What is known about a row. A better state replaces a worse one, in whatever order the lines come.
NOTHING, PASSING, LASTING, INVALID, PAID = range(5)
_OK = int(HTTPStatus.OK)


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
        self._noted: set[int] = set()
        self.unreadable = array("Q")  # file, offset and length of each such line, one after the other
        self.superseded = array("Q")  # the same for answers that were paid for but are not used
        self._spec = spec_of(job.endpoint)
        self._reader = AnswerReader(self._spec, schema=retry_invalid) if retry_invalid else None
        self._is_plain = self._reader is None and not self._spec.can_fail_inside
        self._state = bytearray(job.rows)
        self._file, self._length = array("I", [0]) * job.rows, array("I", [0]) * job.rows
        self._offset = array("Q", [0]) * job.rows

    def add(self, shard: Shard, paths: Iterable[str | AnyPath]) -> Scan:
        """
        Note all result lines of a shard's batch; call it once for each batch.

        :param paths: its downloaded output file and error file: one of them, both or neither.
            They belong on a disk where random access is cheap.
        """
        rows = _ShardRows(self.work, shard)
        scan = Scan()
        for path in map(as_path, paths):
            self.last_rows.append(shard.last_row)
            self.fetch(path.name)
            self._add_file(path, rows, scan)
            self.drop(path.name)
        self.scan.add(scan)
        self._noted.add(shard.index)
        return scan

    def _add_file(self, path: AnyPath, rows: _ShardRows, scan: Scan) -> None:
        number, offset = len(self.files), 0
        self.files.append(path)
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
                        self._keep_aside(scan, number, offset, length)
                    else:
                        scan.lines += 1
                    row = rows.find(line.custom_id)
                    if row is None:
                        scan.unknown += 1
                    else:
                        scan.duplicates += rows.see(row)
                        self._note(row, self._state_of(line), number, offset, length)
                elif not data.isspace():
                    self._keep_aside(scan, number, offset, length)
                offset += length

    def _keep_aside(self, scan: Scan, number: int, offset: int, length: int) -> None:
        scan.unreadable += 1
        self.unreadable.extend((number, offset, length))

    def reject(self, shard: Shard, error: RowError) -> None:
        """Note that the service rejected the whole batch: nothing ran, and nothing is to be asked again."""
        self.rejections[len(self.files)] = error
        for row, _ in read_ids(self.work, shard):
            self._note(row, LASTING, len(self.files), 0, 0)
        self.files.append(None)
        self.last_rows.append(shard.last_row)
        self._noted.add(shard.index)

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
        return self._state[row], self._file[row], self._offset[row], self._length[row]

    def is_unfinished(self, row: int) -> bool:
        """Whether the row is to be asked again: nothing usable came, and asking again may help."""
        state = self._state[row]
        return state in {NOTHING, PASSING} or (state == INVALID and self._reader is not None)

    @property
    def unfinished(self) -> int:
        """How many rows are to be asked again."""
        count = self._state.count(NOTHING) + self._state.count(PASSING)
        return count + self._state.count(INVALID) if self._reader else count

    def check_complete(self) -> None:
        """
        Make sure that no shard was forgotten: its rows would be paid for twice, or lost.

        :raises InvalidInputError: if the results of a shard were not added.
        """
        forgotten = [str(shard.index) for shard in self.job.shards if shard.index not in self._noted]
        if forgotten:
            raise InvalidInputError(
                f"The results of the shards {', '.join(forgotten)} were not added to the index"
            )

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

    def _note(self, row: int, state: int, number: int, offset: int, length: int) -> None:
        known = self._state[row]
        if state < known or state == known >= INVALID:  # the latest failure counts, but the first answer
            if state >= INVALID:
                self.superseded.extend((number, offset, length))
            return
        if known >= INVALID:
            self.superseded.extend((self._file[row], self._offset[row], self._length[row]))
        self._state[row], self._file[row] = state, number
        self._offset[row], self._length[row] = offset, length


class _ShardRows:
    """
    The rows of one shard by custom_id, and which of them were seen.

    A default id contains its row number, so only given ids are kept in memory, at 160 bytes each.
    """

    def __init__(self, work: AnyPath, shard: Shard) -> None:
        self._first = shard.first_row
        self._seen, self._numbered = (bytearray(shard.last_row - shard.first_row + 1) for _ in range(2))
        self._named: dict[str, int] = {}
        for row, given in read_runs(work, shard):
            if isinstance(given, str):
                self._named[given] = row
            else:
                place = row - self._first
                self._numbered[place : place + given] = b"\1" * given

    def find(self, custom_id: str) -> int | None:
        """Return the row; None if the shard has no row with this custom_id."""
        row = row_of_default_id(custom_id)
        if (
            row is not None
            and 0 <= (place := row - self._first) < len(self._numbered)
            and self._numbered[place]
        ):
            return row
        return self._named.get(custom_id)

    def see(self, row: int) -> bool:
        """Note that the row was seen, and return whether it was before."""
        place = row - self._first
        before, self._seen[place] = self._seen[place], 1
        return bool(before)
