"""What is downloaded becomes an index, follow-up shards, parts, the manifest, and a summary for XCom."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import JOB_FILE, ROWS_FILE
from airflow_provider_openai_batches.inference.data.manifest import BatchRecord, Manifest
from airflow_provider_openai_batches.inference.data.merge import merge

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.inference.attempt import Attempt
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.manifest import Merged
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Plan
    from airflow_provider_openai_batches.inference.workspace import Workplace

# XCom is a row of a database: lists are cut here, the manifest has them whole.
SHOWN = 50
SHOWN_ERRORS = 20
SHOWN_MESSAGE = 300
NOT_SUBMITTED = "not_submitted"


def digests(plan: Plan, job: Job, folder: Path) -> tuple[str, str]:
    """Name the job (its requests, ids and kept columns), and the results that it will have."""
    with (folder / ROWS_FILE).open("rb") as rows:
        asked = f"{job.digest} {hashlib.file_digest(rows, 'sha256').hexdigest()}"
    given = f"{asked} {plan.output} {plan.output_format} {plan.schema is not None}"
    return hashlib.sha256(asked.encode()).hexdigest(), hashlib.sha256(given.encode()).hexdigest()


def read_results(attempt: Attempt) -> ResultIndex:
    """Note where each row's result is."""
    plan, place, job, records = attempt.plan, attempt.place, attempt.job, attempt.records
    place.fetch(shard.ids_file for shard in job.shards)
    index = ResultIndex(job, place.here, retry_invalid=plan.schema if plan.retry_invalid else None)
    for shard in job.shards:
        record = records.of(shard.index)
        if record.error is not None:
            index.reject(shard, record.error)
        else:
            names = record.files or []
            place.fetch(names)
            index.add(shard, [place.here / name for name in names])
    return index


def ask_again(place: Workplace, index: ResultIndex) -> Job:
    """Write the shards of the next round."""
    from airflow_provider_openai_batches.inference.data.followup import write_followup  # noqa: PLC0415 - few jobs come here

    place.fetch(shard.file for shard in index.job.shards_of(0))
    job = write_followup(index)
    new = job.shards_of(job.round)
    place.store([*(name for shard in new for name in (shard.file, shard.ids_file)), JOB_FILE])
    return job


def land(plan: Plan, place: Workplace, index: ResultIndex) -> Merged:
    """Write the parts."""
    place.fetch([ROWS_FILE])
    return merge(
        index, place.output, output=plan.output, schema=plan.schema, output_format=plan.output_format
    )


def manifest_of(merged: Merged, attempt: Attempt, finished: float) -> Manifest:
    """Describe the results; ``finished`` is in Unix seconds."""
    records = attempt.records
    times = {"started": records.first_started or records.started, "finished": finished}
    return Manifest.of(
        merged,
        digest=records.digest,
        endpoint=attempt.plan.endpoint,
        output_format=attempt.plan.output_format,
        batches=_batches_of(attempt.job, records),
        times={name: datetime.fromtimestamp(moment, UTC).isoformat() for name, moment in times.items()},
    )


def _batches_of(job: Job, records: Records) -> list[BatchRecord]:
    found = ((shard, records.of(shard.index)) for shard in job.shards)
    return [
        BatchRecord(
            shard=shard.index,
            round=shard.round,
            batch_id=record.batch_id,
            status=record.status,
            counts={"total": record.total, "completed": record.completed, "failed": record.failed},
        )
        for shard, record in found
        if record.batch_id
    ]


def summary_of(manifest: Manifest, output_uri: str) -> dict[str, Any]:
    """What goes into XCom: small whatever the size of the job."""
    errors = sorted(manifest.errors.items(), key=lambda item: -item[1].count)
    summary: dict[str, Any] = {
        "output_uri": output_uri,
        "rows": manifest.rows,
        "counts": manifest.counts,
        "usage": msgspec.to_builtins(manifest.usage),
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
    return summary


def plan_summary(job: Job, output_uri: str, directory: str) -> dict[str, Any]:
    """What a dry run returns."""
    return {
        "dry_run": True,
        "output_uri": output_uri,
        "shards_uri": directory,
        "endpoint": job.endpoint,
        "rows": job.rows,
        "shards": len(job.shards),
        "bytes": job.bytes,
        "estimated_tokens": job.estimated_tokens,
        "models": sorted({shard.model for shard in job.shards if shard.model}),
    }


def rejections(attempt: Attempt) -> str | None:
    """Say how many batches the service rejected; None if it took all."""
    errors = [record.error for record in attempt.records.rejected if record.error]
    if not errors:
        return None
    unsent = sum(error.code == NOT_SUBMITTED for error in errors)
    said = f"The service rejected {len(errors) - unsent} of {len(attempt.job.shards)} batches"
    return f"{said}, and {unsent} were not submitted then." if unsent else f"{said}."


def errors_in_words(merged: Merged) -> str:
    """The most frequent errors, for a message."""
    groups = sorted(merged.errors.items(), key=lambda item: -item[1].count)[:5]
    return "".join(
        f"\n  - {group.count:,} times {code}, first {group.custom_id}: {group.message[:SHOWN_MESSAGE]}"
        for code, group in groups
    )


def progress_of(job: Job, records: Records) -> dict[str, int]:
    """What was done before a wait, for its lines in the log."""
    over = [record for record in records.by_shard.values() if record.files is not None or record.error]
    asked_again = sum(shard.requests for shard in job.shards if shard.round)
    return {
        "batches": len(job.shards),
        "finished": len(over),
        "total": job.rows,
        "completed": sum(record.completed for record in over),
        "failed": max(0, sum(record.failed for record in over) - asked_again),
        "round": job.round,
    }
