"""A batch as the API shows it at a given time: its request counts, and the Batch object."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver.objects import BatchObject
    from airflow_provider_openai_batches.devserver.settings import Settings
    from airflow_provider_openai_batches.devserver.store import StoredBatch


def requests_done(record: StoredBatch, now: float) -> int:
    """How many requests have been executed by now. The number rises evenly while a batch is in progress."""
    if record.done is not None:
        return record.done
    if record.portion is not None:
        return round(record.total * record.portion)
    if record.wire.status != "in_progress":
        return 0
    span = record.due - record.running_since
    share = (now - record.running_since) / span if span > 0 else 1.0
    return int(record.total * min(1.0, max(0.0, share)))


def _request_counts(record: StoredBatch, now: float) -> dict[str, int]:
    real = record.results.outcomes if record.results else record.sent
    if real is not None:
        return {"total": record.total, "completed": real.completed, "failed": real.failed}
    done, check = requests_done(record, now), record.check
    if check is None:
        return {"total": record.total, "completed": done, "failed": 0}
    failed = bisect_left(check.failing, done)
    completed = done - failed - bisect_left(check.expiring, done)
    return {"total": record.total, "completed": completed, "failed": failed}


def batch_view(record: StoredBatch, settings: Settings, now: float) -> BatchObject | dict[str, Any]:
    """The batch as an answer shows it."""
    wire, results = record.wire, record.results
    if not record.seeded:
        wire.request_counts = _request_counts(record, now)
    lag = settings.output_id_lag_seconds
    if results is not None and record.over_at is not None and now >= record.over_at + lag:
        wire.output_file_id = results.output.wire.id if results.output else None
        wire.error_file_id = results.error.wire.id if results.error else None
    if not (record.overrides or settings.omit_nulls):
        return wire
    shown: dict[str, Any] = msgspec.to_builtins(wire) | (record.overrides or {})
    if settings.omit_nulls:
        return {name: value for name, value in shown.items() if value is not None}
    return shown


def span_of(record: StoredBatch) -> dict[str, Any]:
    """When a batch was created, began to be executed and was over, and why it was rejected if it was."""
    wire = record.wire
    errors = wire.errors["data"] if wire.errors else []
    over_at = record.over_at
    return {
        "id": wire.id,
        "number": record.number,
        "status": wire.status,
        "model": wire.model,
        "metadata": wire.metadata,
        "requests": record.requests,
        "tokens": record.tokens,
        "created": record.born,
        "started": record.running_since or None,
        "over": over_at,
        "seconds": None if over_at is None else over_at - record.born,
        "rejected": errors[0]["code"] if errors else None,
    }
