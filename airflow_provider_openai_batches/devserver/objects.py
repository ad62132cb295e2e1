"""Files, batches and pages as the API shows them."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from airflow_provider_openai_batches.devserver import statuses


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


class FileObject(msgspec.Struct):
    """https://developers.openai.com/api/reference/resources/files"""

    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | UnsetType = UNSET
    object: str = "file"
    status: str = "processed"


class BatchObject(msgspec.Struct):
    """https://developers.openai.com/api/reference/resources/batches"""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int | None = None
    object: str = "batch"
    status: str = statuses.FIRST
    model: str | None = None
    errors: dict[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: dict[str, int] | None = None
    usage: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


def page(items: list[Any], has_more: bool) -> dict[str, Any]:
    """https://developers.openai.com/api/reference/resources/batches/methods/list"""
    ids = [item["id"] if isinstance(item, dict) else item.id for item in items]
    return {
        "object": "list",
        "data": items,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": has_more,
    }
