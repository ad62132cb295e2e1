"""Parquet: each record is a row, with the types of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_openai_batches.inference.data.arrow import pyarrow, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.storage import AnyPath

_BATCH_ROWS = 1_000
_BUFFER_BYTES = 1 << 20


def read(handle: BinaryIO, _file: AnyPath) -> Iterator[dict[str, Any]]:
    source = pyarrow("pyarrow.parquet").ParquetFile(handle, buffer_size=_BUFFER_BYTES)
    for batch in source.iter_batches(_BATCH_ROWS):
        yield from rows_of(batch)
