"""The formats of the parts. A new one is a module with a ``PartWriter``, and a line in :data:`WRITERS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.inference.data.writers.jsonl import JsonLinesWriter
from airflow_provider_openai_batches.inference.data.writers.parquet import ParquetWriter

if TYPE_CHECKING:
    from airflow_provider_openai_batches.inference.data.writers.protocol import PartWriter

WRITERS: dict[str, type[PartWriter]] = {"jsonl": JsonLinesWriter, "parquet": ParquetWriter}
