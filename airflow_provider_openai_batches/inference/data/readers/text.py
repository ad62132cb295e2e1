"""Text files: each is one row with its name and its content."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import AnyPath


def read(handle: BinaryIO, file: AnyPath) -> Iterator[dict[str, Any]]:
    content = handle.read().removeprefix(codecs.BOM_UTF8)
    try:
        yield {"path": file.name, "text": content.decode()}
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"{file}, line {number}: not UTF-8: {error}") from error
