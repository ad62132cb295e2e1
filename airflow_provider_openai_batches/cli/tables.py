"""A batch as rows of text for a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.polling.progress import duration

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch


def clean(value: object) -> str:
    """Text from outside, without the control characters that a terminal would act on."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in str(value)
    )


def text(value: object) -> str:
    """The same for a cell of a table: on one line, and escaped so that rich finds no markup."""
    return escape(clean(value).replace("\n", " ")) if value is not None else ""


def when(seconds: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds)) if seconds else ""


def age(batch: Batch, now: float) -> str:
    return duration(now - batch.created_at) if batch.created_at else ""


def line(batch: Batch) -> dict[str, str]:
    """A row of a list."""
    counts, origin = batch.counts, Origin.of(batch)
    return {
        "id": text(batch.id),
        "status": text(batch.status),
        "done": f"{counts.completed}/{counts.total}",
        "failed": str(counts.failed),
        "model": text(batch.model),
        "tokens": str(batch.usage.total_tokens or 0) if batch.usage else "",
        "age": age(batch, time.time()),
        "dag_id": text(origin.dag_id),
        "run_id": text(origin.run_id),
        "task_id": text(origin.task),
    }


def properties(batch: Batch) -> list[dict[str, str]]:
    """Everything that is known about a batch, one property a row."""
    lines: list[tuple[str, object]] = []
    for name, value in batch.to_dict().items():
        if value is None or name in {"object", "errors"}:
            continue
        if name.endswith("_at"):
            lines.append((name, when(value)))
        elif isinstance(value, dict):
            lines.extend(_flat(name, value))
        else:
            lines.append((name, value))
    lines += [(f"errors[{number}]", error) for number, error in enumerate(batch.error_items)]
    return [{"property": text(name), "value": text(value)} for name, value in lines]


def _flat(name: str, value: dict[str, Any]) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            pairs.extend(_flat(f"{name}.{key}", inner))
        elif inner is not None:
            pairs.append((f"{name}.{key}", inner))
    return pairs
