"""JSON lines: each line holds one object, which is a row; blank lines are skipped."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from airflow_provider_openai_batches.api import validation
from airflow_provider_openai_batches.api.models import MAX_FILE_BYTES
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import AnyPath


def lines_of(handle: BinaryIO, file: AnyPath) -> Iterator[bytes]:
    """
    Yield the lines of a file; even a small gzip file can hold a line that does not fit into memory.

    :raises InvalidInputError: if a line is longer than a request file may be.
    """
    for number, line in enumerate(validation.lines_of(handle), start=1):
        if len(line) > MAX_FILE_BYTES:
            raise InvalidInputError(
                f"{file}, line {number}: longer than {MAX_FILE_BYTES:,} bytes, which is more than a request "
                "file may have: check that each row has a line of its own"
            )
        yield line


def read(handle: BinaryIO, file: AnyPath) -> Iterator[dict[str, Any]]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(lines_of(handle, file), start=1):
        document = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if document.isspace():
            continue
        try:
            row = decode(document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"{file}, line {number}: a row must be a JSON object, not {_named(row)}")
        yield row


def _named(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(value), f"{value!r:.50}")
