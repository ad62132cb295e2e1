"""What a batch's panel shows beside its line: files with their sizes, the first failed requests, a link."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.outcome import describe_errors
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.plugin import view

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.plugin.clients import Service

ROLES = {"input": "input_file_id", "output": "output_file_id", "errors": "error_file_id"}


async def read_details(service: Service, batch: Batch) -> dict[str, Any]:
    """A file that cannot be had is said to be so; the rest is shown all the same."""
    named = {role: file_id for role, field in ROLES.items() if (file_id := getattr(batch, field))}
    files, failures = await asyncio.gather(
        asyncio.gather(*(_file(service, role, file_id) for role, file_id in named.items())),
        _failures(service, batch.error_file_id),
    )
    return view.details(batch, files, failures, service.config.batch_link(batch.id))


async def _file(service: Service, role: str, file_id: str) -> dict[str, Any]:
    try:
        return view.file(role, file_id, await service.file(file_id))
    except OpenAIBatchesError as error:
        gone = isinstance(error, APIError) and error.status == 404  # noqa: PLR2004 - HTTP
        return view.file(role, file_id, None, "deleted or expired" if gone else "not known right now")


async def _failures(service: Service, file_id: str | None) -> list[str]:
    if not file_id:
        return []
    try:
        start = await service.file_start(file_id)
    except OpenAIBatchesError:
        return []  # the file's own line says that it cannot be had
    return describe_errors(start.split(b"\n"))
