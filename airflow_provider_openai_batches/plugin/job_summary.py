"""
What the page shows of a task's ``return_value``: the fields of an inference task's summary, cut to a size.

What has another type, and all that no summary has, is left out.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.plugin.jobs import MAX_WORDS, UNREADABLE, decoded, is_count

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader: TypeAlias = Callable[[Any], Any]

# How many characters of JSON a summary may have: more than the largest that an inference task writes.
MAX_SUMMARY = 524_288
MAX_ITEMS = 50


def summary_in(stored: str) -> dict[str, Any] | None:
    """Return the summary in an XCom, as JSON; None for anything else."""
    try:
        summary: dict[str, Any] | None = _SUMMARY(decoded(stored))
    except UNREADABLE:
        return None
    return summary if summary and {"rows", "output_uri"} <= summary.keys() else None


def _number(value: Any) -> float | None:
    return value if is_count(value) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value[:MAX_WORDS] if isinstance(value, str) else None


def _many(read: Reader) -> Reader:
    def of_list(value: Any) -> list[Any] | None:
        if not isinstance(value, list):
            return None
        return [shown for item in value[:MAX_ITEMS] if (shown := read(item)) is not None]

    return of_list


def _named(read: Reader) -> Reader:
    def of_object(value: Any) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            return None
        some = islice(value.items(), MAX_ITEMS)
        return {name[:MAX_WORDS]: shown for name, item in some if (shown := read(item)) is not None}

    return of_object


def _record(**fields: Reader) -> Reader:
    def of_object(value: Any) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            return None
        return {name: shown for name, read in fields.items() if (shown := read(value.get(name))) is not None}

    return of_object


_USAGE = _record(**dict.fromkeys(Usage.__struct_fields__, _number))
_COST = _record(
    usd=_number,
    is_known=_flag,
    unpriced=_many(_text),
    unmetered=_number,
    items=_many(_record(model=_text, way=_text, usd=_number, tokens=_number)),
)
# As ``summary_of`` and ``dry_run_summary`` of ``inference/summary.py`` write it.
_SUMMARY = _record(
    output_uri=_text,
    output_format=_text,
    endpoint=_text,
    rows=_number,
    counts=_named(_number),
    truncated=_number,
    usage=_USAGE,
    live=_record(rows=_number, usage=_USAGE, times_batch_price=_number),
    cost=_COST,
    parts=_many(_text),
    parts_total=_number,
    batches_total=_number,
    rounds=_number,
    errors=_named(_record(count=_number, message=_text, custom_id=_text)),
    errors_total=_number,
    times=_record(started=_text, finished=_text),
    sources=_named(_number),
    table=_record(table=_text, rows=_number, loaded_before=_flag),
    dry_run=_flag,
    shards=_number,
    bytes=_number,
    estimated_tokens=_number,
    models=_many(_text),
    estimate=_record(input_tokens=_number, output_tokens=_number, basis=_text, cost=_COST),
)
