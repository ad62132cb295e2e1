"""The error to raise for a batch that ended without results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.models import UNREADABLE, ResultLine
from airflow_provider_openai_batches.exceptions import BatchCancelled, BatchError, BatchExpired, BatchFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.models import Batch

SHOWN_ERRORS = 10


def error_of(batch: Batch, first_errors: Iterable[str] = ()) -> BatchError | None:
    """
    Return the error to raise for a batch that has ended; None if it has results.

    :param first_errors: the error messages of the first failed requests.
    """
    counts = batch.counts
    done = f"{counts.completed} of {counts.total} requests were done by then"
    kept = (
        f" and are paid for: their answers are in file {batch.output_file_id}" if batch.output_file_id else ""
    )
    errors = _listed(str(item) for item in batch.error_items)
    if batch.status == "failed":
        return BatchFailed(f"Batch {batch.id} failed; nothing ran and nothing is billed.{errors}", batch)
    if batch.status == "expired":
        return BatchExpired(f"Batch {batch.id} expired: {done}{kept}.{errors}", batch)
    if batch.status == "cancelled":
        return BatchCancelled(f"Batch {batch.id} was cancelled: {done}{kept}.{errors}", batch)
    if batch.status == "completed" and not batch.is_good:
        where = f"\nAll of them are in file {batch.error_file_id}." if batch.error_file_id else ""
        what = f"Batch {batch.id} completed, but all {counts.total} requests failed."
        return BatchFailed(f"{what}{_listed(first_errors)}{where}", batch)
    return None


def describe_errors(lines: Iterable[bytes]) -> list[str]:
    """Return the first lines of an error file as sentences; lines that cannot be read are left out."""
    return [text for line in lines if (text := _describe(line))][:SHOWN_ERRORS]


def _describe(line: bytes) -> str | None:
    try:
        result = msgspec.json.decode(line, type=ResultLine, strict=False)
    except UNREADABLE:
        return None
    if result.error:
        return f"{result.custom_id}: {result.error.code}: {result.error.message}"
    if result.response:
        body = result.response.body
        error = body.get("error") if isinstance(body, dict) else body
        message = error.get("message") if isinstance(error, dict) else error
        return f"{result.custom_id}: HTTP {result.response.status_code}: {message}"
    return None


def _listed(errors: Iterable[str]) -> str:
    items = list(errors)
    more = f"\n  … and {len(items) - SHOWN_ERRORS} more" if len(items) > SHOWN_ERRORS else ""
    return "".join(f"\n  - {item}" for item in items[:SHOWN_ERRORS]) + more
