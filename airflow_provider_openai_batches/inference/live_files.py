"""
Live answers as lines of a batch's output file, and the files that they are written to.

A line is stored before its row counts as answered, so a process that is killed loses no more than what was
under way. The next one reads which rows have their answer, and adds files of its own.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import TYPE_CHECKING, Any

import msgspec
import tenacity

from airflow_provider_openai_batches.api import retry
from airflow_provider_openai_batches.api.errors import excerpt
from airflow_provider_openai_batches.inference.data.lines import decode_line
from airflow_provider_openai_batches.inference.data.tolerant import UnreadableError, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.api.protocol import HttpReply
    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.workspace import Workspace

# An object of a store is written anew with each few lines that are added, until it has this size.
SEGMENT_BYTES = 256 << 10
# The code of a row whose request got no answer.
NO_ANSWER = "no_answer"
NOT_JSON, CUT = "The answer is not JSON", "The answer is cut off"
UNFINISHED = frozenset({"queued", "in_progress"})
_NAME = re.compile(r"live-\d+-\d+-\d+-[0-9a-f]+\.jsonl")
_encode = msgspec.json.encode


class _Status(msgspec.Struct):
    """The part of a body that says whether the answer is complete."""

    status: Any = None


_decode_status = msgspec.json.Decoder(_Status).decode


class LiveFiles:
    """
    The files with the live answers of some rows of a job; one process writes them.

    On a disk it is one file, which has each line as soon as it is written. In a store an object cannot be
    added to: as soon as one version of it is stored, the next one is, with the lines that came meanwhile.

    :param place: where the job keeps its files.
    :param part: the name of the job's part that the rows are from, of digits.
    :param number: how many times the part was asked before, because answers were not valid.
    """

    def __init__(self, place: Workspace, part: str, number: int = 0) -> None:
        self._place = place
        self._prefix = f"live-{part}-{number}-"
        self.names = [name for name in live_names(place) if name.startswith(self._prefix)]
        self._number = len(self.names) and _number_of(self.names[-1]) + 1
        # In the names, so that a process that is thought dead and is not never writes to another's file.
        self._token = secrets.token_hex(4)
        self._path: Path | None = None
        self._pending: list[bytes] = []
        self._appended = self._stored = 0
        self._lock = asyncio.Lock()
        self._commits: set[asyncio.Task[None]] = set()

    def mend(self) -> None:
        """Make whole what a killed process left: the last line of a file may be cut off."""
        fetch_whole(self._place, self.names)

    async def write(self, line: bytes) -> None:
        """Return when the line is stored."""
        self._appended += 1
        if self._place.is_local:
            self._append([line])
            return
        self._pending.append(line)
        # A commit is not broken off with the one who waits for it.
        commit = asyncio.create_task(self._commit(self._appended))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        await asyncio.shield(commit)

    async def close(self) -> None:
        """Store what is not stored yet."""
        await asyncio.gather(*self._commits, return_exceptions=True)
        if not self._place.is_local:
            await self._commit(self._appended)

    async def _commit(self, number: int) -> None:
        """Store all lines that are there, if that one is not stored yet."""
        async with self._lock:
            if self._stored >= number:
                return
            upto, lines = self._appended, self._pending
            self._pending = []
            await asyncio.to_thread(self._put, lines)
            self._stored = upto

    def _put(self, lines: list[bytes]) -> None:
        self._append(lines)
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_exponential(max=8), reraise=True
        ):
            with attempt:
                self._place.store(self.names[-1:])
        if self._path is not None and self._path.stat().st_size >= SEGMENT_BYTES:
            self._end_file()

    def _append(self, lines: list[bytes]) -> None:
        if self._path is None:
            name = f"{self._prefix}{self._number}-{self._token}.jsonl"
            self._path = self._place.local / name
            self.names.append(name)
        try:
            with self._path.open("ab") as file:
                file.write(b"".join(lines))
        except OSError:
            self._end_file()  # others must not be added to what may be half a line
            raise

    def _end_file(self) -> None:
        self._path = None
        self._number += 1


def live_names(place: Workspace) -> list[str]:
    """Return the names of all files with live answers of a job, in the order in which they were written."""
    return sorted(
        filter(_NAME.fullmatch, place.names()), key=lambda name: (name.split("-")[:3], _number_of(name))
    )


def fetch_whole(place: Workspace, names: list[str]) -> None:
    """Have these files on this machine, without the last line if a killed process left only a part of it."""
    place.fetch(names)
    for name in names:
        _mend_end(place.local / name)


def live_lines(place: Workspace) -> Iterator[bytes]:
    """Yield all live answers of a job that were stored."""
    names = live_names(place)
    fetch_whole(place, names)
    for name in names:
        with (place.local / name).open("rb") as file:
            yield from file


def add_live(index: ResultIndex, place: Workspace) -> None:
    """Add all live answers of a job to its index."""
    names = live_names(place)
    for part in index.job.live_parts():
        of_part = [name for name in names if name.startswith(f"live-{part.name}-")]
        fetch_whole(place, of_part)
        index.add_live(part, [place.local / name for name in of_part])


def _number_of(name: str) -> int:
    return int(name.split("-")[3])


def _mend_end(path: Path) -> None:
    """Cut off a last line that a killed process did not write to its end: it cannot be read."""
    with path.open("rb+") as file:
        last = b"\n"
        for line in file:
            last = line
        if last.endswith(b"\n"):
            return
        try:
            decode_line(last)
            file.write(b"\n")
        except (ValueError, msgspec.MsgspecError, RecursionError):
            file.truncate(file.tell() - len(last))


def line_of(custom_id: str, reply: HttpReply) -> bytes:
    """Make a line of a batch's output file of an answer; errors in it are redacted."""
    is_good = retry.is_success(reply.status)
    body = _one_line(reply.body if is_good else reply.redact(reply.body.decode("utf-8", "replace")).encode())
    if is_good and (trouble := _trouble(reply.body, body)):
        said = f"{trouble}: {excerpt(reply.body, reply.redact)!r}"
        return error_line(custom_id, NO_ANSWER if trouble is NOT_JSON else retry.UNREADABLE, said)
    response = {
        "status_code": reply.status,
        "request_id": reply.redact(reply.headers.get("x-request-id", "")),
        "body": {"error": {"message": excerpt(reply.body, reply.redact)}} if body is None else body,
    }
    return _line(custom_id, response, None)


def error_line(custom_id: str, code: str, message: str) -> bytes:
    """Make a line of a request without an answer that can be read."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    name = f"live_{secrets.token_hex(12)}"
    return _encode({"id": name, "custom_id": custom_id, "response": response, "error": error}) + b"\n"


def _one_line(body: bytes) -> msgspec.Raw | None:
    """Return JSON without line breaks, as it is otherwise; None if it is no JSON."""
    try:
        return msgspec.Raw(msgspec.json.format(body, indent=-1))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        pass
    try:
        return msgspec.Raw(_encode(read_json(body)))
    except (UnreadableError, RecursionError):
        return None


def _trouble(came: bytes, body: msgspec.Raw | None) -> str | None:
    """
    Say why a success has no answer that can be used; None if it has.

    What looks like an answer was paid for, and is not asked for again.
    """
    if body is None and came.lstrip()[:6].startswith((b"data:", b"event:")):
        return 'The answer is a stream; leave "stream" out of the body'
    if body is None:
        return CUT if came.lstrip()[:1] in {b"{", b"["} else NOT_JSON
    if (b'"queued"' in came or b'"in_progress"' in came) and _decode_status(body).status in UNFINISHED:
        return "The answer is a job that has only begun, so there is no live form of this request"
    return None
