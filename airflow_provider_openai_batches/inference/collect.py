"""Batches that are over: their results are downloaded, or what was wrong with them is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.observability import metrics

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.inference.attempt import Attempt
    from airflow_provider_openai_batches.inference.records import Record

TOKEN_LIMIT = "token_limit_exceeded"  # noqa: S105 - a code of the service


def collect(attempt: Attempt) -> None:
    """Take the results of all batches that are over."""
    limited = False
    for record in attempt.records.active:
        if record.is_over:
            limited |= _take(attempt, record)
    if limited:
        _slow_down(attempt)


def _take(attempt: Attempt, record: Record) -> bool:
    """Download a batch's results; whether it was rejected because too many tokens are enqueued."""
    hook = attempt.submitter.service
    batch = hook.settled(hook.retrieve_batch(str(record.batch_id)))
    record.saw(batch)
    if not batch.is_over:
        return False
    attempt.submitter.known.discard(batch.id)
    metrics.batch_over(batch)
    if batch.status == "failed":
        return _was_rejected(attempt, record, batch)
    names = []
    for kind, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        if file_id:
            names.append(f"{batch.id}-{kind}.jsonl")
            _download(attempt, file_id, names[-1])
    record.files = names
    attempt.log.info(
        "Shard %d: batch %s is %s, %d of %d requests were answered",
        record.shard,
        batch.id,
        batch.status,
        record.completed,
        record.total,
    )
    attempt.records.recover()
    return False


def _download(attempt: Attempt, file_id: str, name: str) -> None:
    """A file that is there is whole."""
    if not attempt.place.has(name):
        attempt.submitter.service.download_file(file_id, attempt.place.here / name)
        attempt.place.store([name])


def _was_rejected(attempt: Attempt, record: Record, batch: Batch) -> bool:
    items = batch.error_items
    if any(item.code == TOKEN_LIMIT for item in items):
        attempt.log.info("Shard %d waits: %s", record.shard, items[0])
        record.release()
        return True
    code = (items and items[0].code) or "batch_failed"
    said = "; ".join(map(str, items[:3])) or "the service gives no reason"
    record.error = RowError(code, f"Batch {batch.id} was rejected: {said}")
    attempt.log.error(
        "Shard %d: batch %s was rejected, nothing of it ran: %s. Nothing more is submitted; what runs is "
        "waited for, and then the task fails",
        record.shard,
        batch.id,
        said,
    )
    return False


def _slow_down(attempt: Attempt) -> None:
    """As many batches as run now fit under the limit; where none runs, it is others that wait in line."""
    running = len(attempt.records.active)
    attempt.records.active_limit = max(1, running)
    if not running:
        attempt.pause("The enqueued-token limit is reached although no batch of this job is in line")
