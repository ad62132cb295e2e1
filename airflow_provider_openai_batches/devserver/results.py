"""
The result files of a batch: successes in the output file, everything else in the error file.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING, Any, Self

import msgspec

from airflow_provider_openai_batches.devserver.endpoints import answer, usage
from airflow_provider_openai_batches.devserver.store import Results
from airflow_provider_openai_batches.devserver.validation import breathe, decode_line, digest

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from airflow_provider_openai_batches.devserver.endpoints import Tokens
    from airflow_provider_openai_batches.devserver.files import FileStore
    from airflow_provider_openai_batches.devserver.store import BatchRecord, Check, StoredFile
    from airflow_provider_openai_batches.devserver.tally import Tally
    from airflow_provider_openai_batches.devserver.validation import Line

BUFFER = 1 << 20
REASONS = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request was not executed because the batch was cancelled.",
}
_encode = msgspec.json.Encoder().encode


class Dropped(Exception):
    """The server was reset while a batch's results were written."""


class Requests:
    """Random access to the request lines of an input file."""

    def __init__(self, path: Path, check: Check) -> None:
        self._offsets = check.offsets
        with path.open("rb") as source:
            self._map = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def __getitem__(self, index: int) -> Line:
        start = self._offsets[index]
        end = self._map.find(b"\n", start)
        return decode_line(self._map[start : end if end >= 0 else len(self._map)])


class _Part:
    """One result file, which exists once it has a line."""

    def __init__(self, files: FileStore, record: BatchRecord, kind: str) -> None:
        self._files = files
        self._record = record
        self._kind = kind
        self._file: BinaryIO | None = None
        self._path: Path | None = None

    def write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            _, self._path = self._files.new_path()
            self._file = self._path.open("wb", buffering=BUFFER)
        self._file.write(_encode(line) + b"\n")

    def close(self) -> StoredFile | None:
        if self._file is None or self._path is None:
            return None
        self._file.close()
        name = f"{self._record.wire.id}_{self._kind}.jsonl"
        return self._files.add(self._path, name, "batch_output", expiry=self._record.output_expiry)

    def discard(self) -> None:
        if self._file is not None and self._path is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


class ResultWriter:
    """Takes the outcome of one request after the other, from any thread."""

    def __init__(self, record: BatchRecord, files: FileStore, tally: Tally) -> None:
        self.completed = 0
        self.failed = 0
        self._record = record
        self._tally = tally
        self._output = _Part(files, record, "output")
        self._error = _Part(files, record, "error")
        self._used = [0, 0, 0, 0]
        self._lock = threading.Lock()

    def ran(self, line: Line, status: int, body: Any, tokens: Tokens, *, omit: bool = False) -> None:
        """
        The request was done.

        :param omit: count it, but leave its line out.
        """
        key = digest(line)
        succeeded = 200 <= status < 300  # noqa: PLR2004 - HTTP's own numbers
        response = {"status_code": status, "request_id": f"req_{key.hex()}", "body": body}
        with self._lock:
            self._tally.run(key, succeeded=succeeded)
            if succeeded:
                self.completed += 1
                self._use(tokens)
            else:
                self.failed += 1
            if not omit:
                part = self._output if succeeded else self._error
                part.write(
                    {
                        "id": f"batch_req_{key.hex()}",
                        "custom_id": line.custom_id,
                        "response": response,
                        "error": None,
                    }
                )

    def skipped(self, line: Line, code: str, message: str, *, failed: bool = False) -> None:
        """The request was never done."""
        with self._lock:
            self.failed += failed
            self._error.write(
                {
                    "id": f"batch_req_{digest(line).hex()}",
                    "custom_id": line.custom_id,
                    "response": None,
                    "error": {"code": code, "message": message},
                }
            )

    def ended(self, line: Line, ending: str) -> None:
        """The batch was over before the request was done."""
        self.skipped(line, f"batch_{ending}", REASONS[ending])

    def _use(self, tokens: Tokens) -> None:
        used = self._used
        used[0] += tokens.input
        used[1] += tokens.cached
        used[2] += tokens.output
        used[3] += tokens.reasoning

    def close(self) -> Results:
        used = usage(*self._used)
        return Results(self.completed, self.failed, used, self._output.close(), self._error.close())

    def discard(self) -> None:
        self._output.discard()
        self._error.discard()


def write_results(record: BatchRecord, writer: ResultWriter) -> Results:
    """
    Answer the first ``record.done`` requests in the batch's order, and say of the others why they were not.

    :raises Dropped: if the batch was forgotten meanwhile.
    """
    check, source = record.check, record.input
    if check is None or source is None or check.errors or not check.total:
        return writer.close()
    ending = "cancelled" if record.ending == "cancelled" else "expired"
    done = record.done or 0
    with Requests(source.path, check) as requests:
        for place, index in enumerate(check.order):
            if record.dropped:
                raise Dropped
            line, quirk = requests[index], check.quirks.get(index, "")
            if place >= done or quirk.startswith("expire"):
                writer.ended(line, ending)
            else:
                made = answer(line, record.wire.endpoint, record.wire.created_at, quirk)
                writer.ran(line, made.status, made.body, made.tokens, omit=quirk == "omit")
            breathe(place)
    return writer.close()
