"""Answers that were found in a store, as lines of a batch's output file, in files of the job."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.inference.data.findings import PAID, Findings, Scan
from airflow_provider_openai_batches.inference.data.job import read_runs
from airflow_provider_openai_batches.storage import is_bare_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.job import Job, LivePart
    from airflow_provider_openai_batches.storage import AnyPath

# Lines are kept in memory until there are so many bytes of them.
PENDING_BYTES = 4 << 20
# The number of a part's file is one byte in the findings.
MOST_FILES = 256


class StoredAnswers(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What was found for a job in a store of answers.

    :param uri: the store's; ``max_age`` is how old the answers might be, in seconds.
    :param token: a part of the names of the files, so that no other process writes them.
    :param files: how many files have answers to the rows of a part, by the part's name.
    :param rows: how many rows have an answer in them.
    :param broken: how many segments of the store could not be read.
    """

    uri: str
    max_age: float | None = None
    token: str = ""
    files: dict[str, int] = {}
    rows: int = 0
    broken: int = 0

    @property
    def is_safe(self) -> bool:
        """Whether its files are in the job's own directory."""
        are_few = all(1 <= count <= MOST_FILES for count in self.files.values())
        return are_few and all(map(is_bare_name, (self.token or "-", *self.files)))

    def names(self, part: LivePart) -> list[str]:
        """Return the names of the files with answers to the rows of a part."""
        return [_name_of(part, self.token, number) for number in range(self.files.get(part.name, 0))]

    def findings_name(self, part: LivePart) -> str:
        """Return the name of the file that says where in them each row's answer is."""
        return _findings_of(part, self.token)


def _findings_of(part: LivePart, token: str) -> str:
    return f"stored-{part.name}-{token}.findings"


def _name_of(part: LivePart, token: str, number: int) -> str:
    return f"stored-{part.name}-{token}-{number}.jsonl"


def line_of(row: int, body: bytes) -> bytes:
    """
    Make a line of a batch's output file.

    It is named after its row, whatever the row's ``custom_id``: the ids are not in memory.
    """
    return (
        b'{"id":"stored","custom_id":"row-%d","response":{"status_code":200,"request_id":"","body":%b},'
        b'"error":null}\n' % (row, body)
    )


class StoredWriter:
    """
    Writes lines, which come in any order, to the files of the parts that their rows are in.

    :param ended: is called with each file that is complete, and may take it away; without it a part has one.
    :param most_bytes: so many bytes are written before all files end and others begin.
    """

    def __init__(
        self,
        job: Job,
        work: AnyPath,
        token: str,
        *,
        ended: Callable[[str], None] | None = None,
        most_bytes: int = 0,
    ) -> None:
        self._work, self._token, self._ended, self._most_bytes = work, token, ended, most_bytes
        self._parts = [_Part(part) for part in job.live_parts()]
        self._part_of = array("H", [0]) * job.rows
        for number, part in enumerate(self._parts):
            for shard in part.part.shards:
                for row, given in read_runs(work, shard):
                    count = 1 if isinstance(given, str) else given
                    self._part_of[row : row + count] = array("H", [number]) * count
        self._pending = self._written = 0
        self.rows = 0

    def add(self, row: int, line: bytes) -> None:
        """Add the line of a row; at most one for each."""
        self._parts[self._part_of[row]].add(row, line)
        self.rows += 1
        self._pending += len(line)
        if self._pending >= PENDING_BYTES:
            self._flush()

    def end(self) -> dict[str, int]:
        """Write what is left, and where each row's line is; return the number of files by part."""
        self._flush()
        self._end_files(is_last=True)
        for each in self._parts:
            if each.rows:
                name = _findings_of(each.part, self._token)
                each.findings().save(self._work / name)
                if self._ended is not None:
                    self._ended(name)
        return {each.part.name: each.count for each in self._parts if each.rows}

    def _flush(self) -> None:
        for each in self._parts:
            each.flush(self._work / _name_of(each.part, self._token, each.count))
        self._written += self._pending
        self._pending = 0
        if self._ended is not None and self._written >= self._most_bytes:
            self._end_files()

    def _end_files(self, *, is_last: bool = False) -> None:
        """Complete the files that were begun; the last file that a part may have is not, until the end."""
        self._written = 0
        for each in self._parts:
            if each.offset and (is_last or each.count + 1 < MOST_FILES):
                if self._ended is not None:
                    self._ended(_name_of(each.part, self._token, each.count))
                each.count, each.offset = each.count + 1, 0


class _Part:
    """The lines of one part: 17 bytes in memory for each row."""

    def __init__(self, part: LivePart) -> None:
        self.part, self.count, self.offset = part, 0, 0
        self.rows, self._files = array("I"), bytearray()
        self._offsets, self._lengths = array("Q"), array("I")
        self._lines: list[bytes] = []

    def add(self, row: int, line: bytes) -> None:
        self.rows.append(row)
        self._files.append(self.count)
        self._offsets.append(self.offset)
        self._lengths.append(len(line))
        self.offset += len(line)
        self._lines.append(line)

    def flush(self, path: AnyPath) -> None:
        if self._lines:
            with path.open("ab") as file:
                file.writelines(self._lines)
            self._lines.clear()

    def findings(self) -> Findings:
        order = sorted(range(len(self.rows)), key=self.rows.__getitem__)
        return Findings(
            rows=array("I", map(self.rows.__getitem__, order)).tobytes(),
            states=bytes([PAID]) * len(order),
            files=bytes(map(self._files.__getitem__, order)),
            offsets=array("Q", map(self._offsets.__getitem__, order)).tobytes(),
            lengths=array("I", map(self._lengths.__getitem__, order)).tobytes(),
            unreadable=b"",
            superseded=b"",
            scan=Scan(),
            has_checked=False,
        )


def read_stored(index: ResultIndex, stored: StoredAnswers) -> Iterator[tuple[LivePart, Findings]]:
    """Yield the parts that have answers, with where they are; a part whose files are gone has none."""
    for part in index.job.live_parts():
        if part.name in stored.files:
            name = stored.findings_name(part)
            try:
                index.fetch(name)
            except FileNotFoundError:
                continue
            if found := Findings.load(index.work / name):
                yield part, found
            index.drop(name)


def has_all(index: ResultIndex, stored: StoredAnswers) -> bool:
    """Whether all that says where the answers are can be read."""
    return sum(1 for _ in read_stored(index, stored)) == len(stored.files)


def settled_rows(index: ResultIndex, stored: StoredAnswers | None) -> bytearray:
    """Return for each row 1 if it repeats another one, or has an answer from a store."""
    marks = bytearray(index.job.rows)
    for row in index.repeats.rows:
        marks[row] = 1
    for _, found in read_stored(index, stored) if stored else ():
        for row in found.row_numbers():
            marks[row] = 1
    return marks


def add_stored(index: ResultIndex, stored: StoredAnswers) -> None:
    """Note the answers in the index of a job, after all others."""
    for part, found in read_stored(index, stored):
        paths = [index.work / name for name in stored.names(part)]
        index.take_stored(paths, found, part.as_shard.last_row)
