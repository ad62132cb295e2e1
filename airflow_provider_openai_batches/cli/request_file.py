"""A file of requests, counted as a job would send it."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.readers import jsonl, read_rows
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.storage import as_path, open_binary, remove
from airflow_provider_openai_batches.storage.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.storage import AnyPath

# A line of these may also be a prompt, and each row has a line of its own.
_LINES = re.compile(r"\.(jsonl|ndjson)$", re.IGNORECASE)


def counted(file: str, endpoint: str, model: str | None) -> Job:
    """
    Return the job that the requests of a file would be; nothing is sent, and nothing is left on the disk.

    :param file: prompts as JSON strings, request bodies or whole request lines in JSON lines; or whatever
        else ``input_uri`` takes, if its rows are bodies or lines.
    :param model: the model of prompts, and of bodies that name none.
    :raises InvalidInputError: naming file and line.
    """
    rows = _rows_of(file)
    try:
        requests = requests_from(rows, endpoint=endpoint, model=model)
        with Scratch() as scratch:
            work = as_path(scratch.path) / "job"
            return write_shards(
                requests, work, endpoint=endpoint, completed=lambda shard: remove(work / shard.file)
            )
    except InvalidInputError as error:
        raise InvalidInputError(rows.placed(str(error))) from error


def _rows_of(file: str) -> _Rows:
    try:
        return _Rows(as_path(file))
    except InvalidInputError:
        raise
    except Exception as error:  # an unknown scheme, a client that is not installed, or what a client raises
        raise InvalidInputError(f"{file} cannot be read: {error}") from error


class _Rows:
    """The rows of a file, which knows the line of the last one until all are read."""

    def __init__(self, file: AnyPath) -> None:
        self._file = file
        self._line: int | None = None
        is_lines = _LINES.search(file.name) and not file.is_dir() and file.exists()
        self._rows = self._read() if is_lines else read_rows(file)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def placed(self, error: str) -> str:
        """Return an error with the name of the file, and with the line if the last row has it."""
        if error.startswith(str(self._file)):
            return error
        return f"{self._file}{f', line {self._line}' if self._line else ''}: {error}"

    def _read(self) -> Iterator[Any]:
        decode = msgspec.json.Decoder(str | dict[str, Any]).decode
        try:
            with open_binary(self._file) as handle:
                for number, line in enumerate(jsonl.lines_of(handle, self._file), start=1):
                    self._line = number
                    document = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    if not document.isspace():
                        yield decode(document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"neither a prompt in quotes nor a JSON object: {error}") from error
        self._line = None
