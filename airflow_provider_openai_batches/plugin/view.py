"""What the page shows of a batch, as JSON. Only what is named here reaches the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.pricing.account import cost_of

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch, File
    from airflow_provider_openai_batches.pricing.prices import Prices

TIMES = (
    "created_at",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "cancelling_at",
    "cancelled_at",
    "expired_at",
    "expires_at",
)


def row(batch: Batch, prices: Prices, *, dag_known: bool, may_cancel: bool) -> dict[str, Any]:
    """A row of the table."""
    usage = batch.usage
    cost = cost_of(batch, prices)
    return {
        "id": batch.id,
        "status": batch.status,
        "is_over": batch.is_over,
        "may_cancel": may_cancel and batch.can_be_cancelled,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "counts": msgspec.to_builtins(batch.counts),
        "tokens": usage
        and {
            "input": usage.input_tokens or 0,
            "cached": (usage.input_tokens_details and usage.input_tokens_details.cached_tokens) or 0,
            "output": usage.output_tokens or 0,
            "reasoning": (usage.output_tokens_details and usage.output_tokens_details.reasoning_tokens) or 0,
            "total": usage.total_tokens or 0,
        },
        "cost": usage and cost and ("no price" if cost.unpriced else str(cost)),
        "cost_usd": cost and cost.usd,
        "cost_is_known": bool(cost and cost.is_known),
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "ended_at": getattr(batch, f"{batch.status}_at", None) if batch.is_over else None,
        "origin": msgspec.to_builtins(keys.Origin.of(batch)),
        "dag_known": dag_known,
    }


def details(
    batch: Batch, files: list[dict[str, Any]], failures: list[str], link: str | None
) -> dict[str, Any]:
    """What the panel of a batch shows in addition to its row."""
    return {
        "times": {name: time for name in TIMES if (time := getattr(batch, name))},
        "completion_window": batch.completion_window,
        "errors": msgspec.to_builtins(batch.error_items),
        "files": files,
        "failures": failures,
        "metadata": {
            name: value for name, value in (batch.metadata or {}).items() if not name.startswith(keys.PREFIX)
        },
        "link": link,
    }


def file(role: str, file_id: str, known: File | None, problem: str | None = None) -> dict[str, Any]:
    """One of a batch's files; ``problem`` says why nothing is known about it."""
    return {
        "role": role,
        "id": file_id,
        "filename": known and known.filename,
        "bytes": known and known.bytes,
        "expires_at": known and known.expires_at,
        "problem": problem,
    }
