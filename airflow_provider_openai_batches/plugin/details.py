"""What the panel of a batch shows in addition to its row: files, first failed requests, a link."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.outcome import describe_errors
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.plugin import view

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.plugin.clients import CachedClient

ROLES = {"input": "input_file_id", "output": "output_file_id", "errors": "error_file_id"}


async def read_details(client: CachedClient, batch: Batch) -> dict[str, Any]:
    """A file that cannot be read is shown with the reason; it does not hide the rest."""
    named = {role: file_id for role, field in ROLES.items() if (file_id := getattr(batch, field))}
    files, failures = await asyncio.gather(
        asyncio.gather(*(_file(client, role, file_id) for role, file_id in named.items())),
        _failures(client, batch.error_file_id),
    )
    return view.details(batch, files, failures, client.config.batch_link(batch.id))


async def _file(client: CachedClient, role: str, file_id: str) -> dict[str, Any]:
    try:
        return view.file(role, file_id, await client.file(file_id))
    except OpenAIBatchesError as error:
        gone = isinstance(error, APIError) and error.status == HTTPStatus.NOT_FOUND
        return view.file(role, file_id, None, "deleted or expired" if gone else "not known right now")


async def _failures(client: CachedClient, file_id: str | None) -> list[str]:
    if not file_id:
        return []
    try:
        start = await client.file_start(file_id)
    except OpenAIBatchesError:
        return []  # the row of the file says what is wrong with it
    return describe_errors(start.split(b"\n"))
