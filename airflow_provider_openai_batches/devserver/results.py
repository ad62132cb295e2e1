"""
The result files of a batch: successes in the output file, everything else in the error file.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.answers import answer
from airflow_provider_openai_batches.devserver.input_lines import InputLines, digest, let_others_run
from airflow_provider_openai_batches.devserver.statuses import NOT_EXECUTED
from airflow_provider_openai_batches.devserver.store import Outcomes, WrittenResults
from airflow_provider_openai_batches.devserver.token_usage import TokenUsage

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from airflow_provider_openai_batches.devserver.files import FileStore
    from airflow_provider_openai_batches.devserver.input_lines import InputLine
    from airflow_provider_openai_batches.devserver.store import StoredBatch, StoredFile
    from airflow_provider_openai_batches.devserver.tally import Tally

BUFFER_BYTES = 1 << 20
SUCCESSES = range(HTTPStatus.OK, HTTPStatus.MULTIPLE_CHOICES)
_encode = msgspec.json.Encoder().encode


class BatchDropped(Exception):
    """The server was reset while a batch's results were written."""


class _ResultFile:
    """A result file. It is created when it gets its first line."""

    def __init__(self, files: FileStore, record: StoredBatch, kind: str) -> None:
        self._files = files
        self._record = record
        self._kind = kind
        self._file: BinaryIO | None = None
        self._path: Path | None = None

    def write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            self._path = self._files.new_path()
            self._file = self._path.open("wb", buffering=BUFFER_BYTES)
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
    """Records how each request ended. Can be called from several threads."""

    def __init__(self, record: StoredBatch, files: FileStore, tally: Tally) -> None:
        self.outcomes = Outcomes()
        self._tally = tally
        self._output = _ResultFile(files, record, "output")
        self._error = _ResultFile(files, record, "error")
        self._used = [0, 0, 0, 0]
        self._lock = threading.Lock()

    def executed(self, line: InputLine, status: int, body: Any, usage: TokenUsage, *, omit: bool) -> None:
        """:param omit: count the request, but leave its line out."""
        key = digest(line)
        succeeded = status in SUCCESSES
        response = {"status_code": status, "request_id": f"req_{key.hex()}", "body": body}
        with self._lock:
            self._tally.count_execution(key, line.custom_id, succeeded=succeeded)
            if succeeded:
                self.outcomes.completed += 1
                self._add(usage)
            else:
                self.outcomes.failed += 1
            if not omit:
                file = self._output if succeeded else self._error
                file.write(
                    {
                        "id": f"batch_req_{key.hex()}",
                        "custom_id": line.custom_id,
                        "response": response,
                        "error": None,
                    }
                )

    def unreachable(self, line: InputLine, message: str) -> None:
        """The upstream did not answer, so nobody knows whether the request was executed."""
        with self._lock:
            self.outcomes.failed += 1
            self._write_error(line, "upstream_unreachable", message)

    def not_executed(self, line: InputLine, ending: str) -> None:
        """The batch ended before the request was executed."""
        with self._lock:
            self._write_error(line, f"batch_{ending}", NOT_EXECUTED[ending])

    def _write_error(self, line: InputLine, code: str, message: str) -> None:
        self._error.write(
            {
                "id": f"batch_req_{digest(line).hex()}",
                "custom_id": line.custom_id,
                "response": None,
                "error": {"code": code, "message": message},
            }
        )

    def _add(self, usage: TokenUsage) -> None:
        used = self._used
        used[0] += usage.input
        used[1] += usage.cached
        used[2] += usage.output
        used[3] += usage.reasoning

    def close(self) -> WrittenResults:
        usage = TokenUsage(*self._used).report()
        return WrittenResults(self.outcomes, usage, self._output.close(), self._error.close())

    def discard(self) -> None:
        self._output.discard()
        self._error.discard()


def write_results(record: StoredBatch, writer: ResultWriter) -> WrittenResults:
    """
    Answer the first ``record.done`` requests in the batch's order, and say why the others were not executed.

    :raises BatchDropped: if the server was reset meanwhile.
    """
    check, source = record.check, record.input
    if check is None or source is None or check.errors or not check.total:
        return writer.close()
    ending = record.ending if record.ending in NOT_EXECUTED else "expired"
    done = record.done or 0
    with InputLines(source.path, check.offsets) as lines:
        for place, index in enumerate(check.order):
            if record.dropped:
                raise BatchDropped
            line, quirk = lines[index], check.quirks.get(index, "")
            if place >= done or quirk.startswith("expire"):
                writer.not_executed(line, ending)
            else:
                made = answer(line, record.wire.endpoint, record.wire.created_at, quirk)
                writer.executed(line, made.status, made.body, made.usage, omit=quirk == "omit")
            let_others_run(place)
    return writer.close()
