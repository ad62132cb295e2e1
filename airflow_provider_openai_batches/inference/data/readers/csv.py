"""CSV with a header: each record is a row, and all values are text."""

from __future__ import annotations

import codecs
import csv
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_openai_batches.api.models import MAX_FILE_BYTES
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.readers.jsonl import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import AnyPath


def read(handle: BinaryIO, file: AnyPath) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FILE_BYTES))  # a document may exceed 128 kB
    reader = csv.reader(_text_lines(handle, file), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InvalidInputError(f"{file}, line 1: two columns have the same name: {', '.join(header)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InvalidInputError(
                    f"{file}, line {reader.line_num}: {len(cells)} fields, but the header has {len(header)}"
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InvalidInputError(f"{file}, line {reader.line_num}: {error}") from error


def _text_lines(handle: BinaryIO, file: AnyPath) -> Iterator[str]:
    for number, line in enumerate(lines_of(handle, file), start=1):
        try:
            yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file}, line {number}: not UTF-8: {error}") from error
