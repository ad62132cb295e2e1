"""JSON lines: each line holds one object, which is a row; blank lines are skipped."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import AnyPath


def read(handle: BinaryIO, file: AnyPath) -> Iterator[dict[str, Any]]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(handle, start=1):
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
