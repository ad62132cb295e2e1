"""What is said of a job and its results: in the log, in XCom, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.inference.data.manifest import OWN, SOURCES
from airflow_provider_openai_batches.inference.records import NOT_SUBMITTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.api.validation import FailOn
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.manifest import Manifest, Merged
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.pricing.cost import Cost
    from airflow_provider_openai_batches.pricing.estimate import Estimate

# XCom values are stored in Airflow's database: lists are cut here, and complete in the manifest.
SHOWN = 50
SHOWN_ERRORS = 20
SHOWN_MESSAGE = 300


def progress_of(records: Records, job: Job) -> dict[str, int]:
    """Return what was done before a wait, for the wait's lines in the log."""
    given_up = sum(record.is_given_up for record in records.by_shard.values())
    over = [record for record in records.by_shard.values() if record.files is not None or record.error]
    asked_again, stored = sum(shard.asked_again for shard in job.shards), records.stored
    known = (stored.rows if stored else 0) + job.repeats
    return {
        "batches": len(job.shards) - given_up,
        "finished": len(over) - given_up,
        "total": job.rows,
        "completed": sum(record.completed for record in over) + records.live_rows + known,
        "failed": max(0, sum(record.failed for record in over) - asked_again),
        "round": job.round,
        "again": asked_again,
        "live": records.live_rows,
    }


def rejection_of(records: Records, job: Job) -> str | None:
    """Say how many batches the service rejected; None if it rejected none."""
    errors = [record.error for record in records.rejected if record.error]
    if not errors:
        return None
    unsent = sum(error.code == NOT_SUBMITTED for error in errors)
    said = f"The service rejected {len(errors) - unsent} of {len(job.shards)} batches"
    return f"{said}, and {unsent} were not submitted." if unsent else f"{said}."


def in_words(counts: Mapping[str, int]) -> str:
    """Say how many rows have each status, such as ``998 succeeded, 2 failed``."""
    return ", ".join(f"{number:,} {status}" for status, number in counts.items() if number)


def failure(counts: Mapping[str, int], fail_on: FailOn) -> str | None:
    """Say why these counts of rows by status fail the task; None if they do not."""
    rows = sum(counts.values())
    lost = rows - counts.get("succeeded", 0)
    found = in_words(counts)
    if lost == rows:
        return f"Not one of {rows:,} rows succeeded ({found})."
    allowed = {"none": rows, "any": 0}.get(fail_on, 0) if isinstance(fail_on, str) else fail_on * rows
    if lost > allowed:
        return f"{lost:,} of {rows:,} rows have no valid answer ({found}), which fail_on={fail_on!r} forbids."
    return None


def summary_of(manifest: Manifest, output_uri: str) -> dict[str, Any]:
    """Return what goes into XCom; it is small whatever the size of the job."""
    errors = sorted(manifest.errors.items(), key=lambda item: -item[1].count)
    summary: dict[str, Any] = {
        "output_uri": output_uri,
        "rows": manifest.rows,
        "counts": manifest.counts,
        "truncated": manifest.truncated,
        "usage": msgspec.to_builtins(manifest.usage),
        "live": msgspec.to_builtins(manifest.live),
        "cost": cost_of(manifest.cost),
        "parts": [part.file for part in manifest.parts[:SHOWN]],
        "parts_total": len(manifest.parts),
        "batches": [
            {name: getattr(batch, name) for name in ("shard", "round", "batch_id", "status")}
            for batch in manifest.batches[:SHOWN]
        ],
        "batches_total": len(manifest.batches),
        "rounds": max((batch.round for batch in manifest.batches), default=0),
        "errors": {
            code[:SHOWN_MESSAGE]: {
                "count": group.count,
                "message": group.message[:SHOWN_MESSAGE],
                "custom_id": group.custom_id[:SHOWN_MESSAGE],
            }
            for code, group in errors[:SHOWN_ERRORS]
        },
        "errors_total": len(errors),
        "lines": msgspec.to_builtins(manifest.scan),
        "times": manifest.times,
        "endpoint": manifest.endpoint,
        "output_format": manifest.output_format,
    }
    more = {name: getattr(manifest, name) for name in ("sources", "answers_broken")}
    return summary | {name: value for name, value in more.items() if value is not None}


def sources_of(job: Job, stored: int, mode: str) -> dict[str, int]:
    """
    Return where the results of a job's rows will be from, as far as that is known beforehand.

    :param stored: how many rows a store of answers has.
    """
    counts = dict.fromkeys(SOURCES, 0)
    asked = job.rows - stored - job.repeats
    return {**counts, mode: asked, "store": stored, "duplicate": job.repeats}


def sources_in_words(sources: Mapping[str, int]) -> str:
    """Say where results are from, such as ``950 rows from the store, 2 equal to others, 48 asked``."""
    asked = sum(sources[name] for name in OWN)
    return (
        f"{sources['store']:,} rows from the store, {sources['duplicate']:,} equal to others, {asked:,} asked"
    )


def dry_run_summary(
    job: Job, estimate: Estimate, output_uri: str, directory: str, sources: dict[str, int] | None = None
) -> dict[str, Any]:
    """
    Return the summary of a dry run.

    :param sources: where the results will be from; None: all of them from batches, or all from live requests.
    """
    summary = {
        "dry_run": True,
        "output_uri": output_uri,
        "shards_uri": directory,
        "endpoint": job.endpoint,
        "rows": job.rows,
        "shards": len(job.shards),
        "bytes": job.bytes,
        "estimated_tokens": job.estimated_tokens,
        "models": sorted({shard.model for shard in job.shards if shard.model}),
        "estimate": {
            "input_tokens": estimate.input_tokens,
            "output_tokens": estimate.output_tokens,
            "basis": estimate.basis,
            "cost": cost_of(estimate.cost),
        },
    }
    return summary if sources is None else {**summary, "sources": sources}


def cost_of(cost: Cost | None) -> dict[str, Any] | None:
    """Return what is said in XCom of a cost, in US dollars; without what is unknown."""
    if cost is None:
        return None
    return {
        "usd": cost.usd,
        "is_known": cost.is_known,
        "unpriced": cost.unpriced[:SHOWN],
        "unmetered": cost.unmetered,
        "items": [
            {"model": item.model, "way": item.way, "usd": item.usd, "tokens": item.usage.total_tokens}
            for item in cost.items[:SHOWN]
        ],
    }


def extra_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a summary that an asset event carries: as little as another task needs to go on."""
    extra = {name: summary[name] for name in ("dry_run", "output_uri", "rows", "counts") if name in summary}
    if "cost" in summary:
        cost = summary["cost"]
        extra["cost"] = cost and {name: cost[name] for name in ("usd", "is_known")}
    if "table" in summary:
        extra["table"] = summary["table"]["table"]
    return extra


def errors_in_words(merged: Merged) -> str:
    """Name the most frequent errors, for a message."""
    groups = sorted(merged.errors.items(), key=lambda item: -item[1].count)[:5]
    return "".join(
        f"\n  - {group.count:,} times {code}, first {group.custom_id}: {group.message[:SHOWN_MESSAGE]}"
        for code, group in groups
    )
