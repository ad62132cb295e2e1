"""Shards that have no batch yet: submitted as far as the service takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.api.retry import is_passing, is_unusable
from airflow_provider_openai_batches.exceptions import APIError
from airflow_provider_openai_batches.idempotency.submit import BatchSpec
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.landing import NOT_SUBMITTED

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.inference.attempt import Attempt
    from airflow_provider_openai_batches.inference.data.job import Shard
    from airflow_provider_openai_batches.inference.records import Record

# The service takes 2,000 an hour; some are left for others.
# https://developers.openai.com/api/docs/guides/batch#rate-limits
CREATIONS_AN_HOUR = 1_900
HOUR = 3_600


def submit(attempt: Attempt) -> None:
    """Submit what may be submitted now; nothing more once the service has rejected a shard."""
    records = attempt.records
    if not records.rejected and _is_time(attempt):
        for shard in attempt.open_shards[: _room(attempt)]:
            _submit_shard(attempt, shard, records.of(shard.index))
            if records.rejected:
                break
    if records.rejected:
        for shard in attempt.open_shards:
            records.of(shard.index).error = RowError(
                NOT_SUBMITTED, "Not submitted, because another batch of the job was rejected"
            )


def next_creation(attempt: Attempt) -> float:
    """When the service takes one more batch, in Unix seconds."""
    now = attempt.clock()
    created = attempt.records.created_since(now - HOUR)
    paced = now if len(created) < CREATIONS_AN_HOUR else created[-CREATIONS_AN_HOUR] + HOUR
    return max(paced, attempt.records.not_before)


def _is_time(attempt: Attempt) -> bool:
    now = attempt.clock()
    return now >= attempt.records.not_before and (attempt.limit is None or now < attempt.limit)


def _room(attempt: Attempt) -> int:
    records, most = attempt.records, attempt.plan.max_active_batches
    if records.active_limit is not None:
        most = min(most, records.active_limit)
    created = len(records.created_since(attempt.clock() - HOUR))
    return max(0, min(most - len(records.active), CREATIONS_AN_HOUR - created))


def _submit_shard(attempt: Attempt, shard: Shard, record: Record) -> None:
    try:
        batch = _create(attempt, shard, record)
    except APIError as error:
        if is_passing(error) or not attempt.records.has_batches:
            raise
        record.error = RowError(error.code or f"http_{error.status}", str(error))
        attempt.log.error("Shard %d is refused, nothing more is submitted: %s", shard.index, error)  # noqa: TRY400 - no traceback
    else:
        record.saw(batch)


def _create(attempt: Attempt, shard: Shard, record: Record) -> Batch:
    plan, submitter, key = attempt.plan, attempt.submitter, attempt.key(shard)
    spec = BatchSpec(
        endpoint=plan.endpoint,
        completion_window=plan.completion_window,
        metadata=plan.metadata,
        output_expires_after=plan.output_expires_after,
    )
    if record.input_file_id:
        try:
            return submitter.submit_file_id(spec, key, record.input_file_id)
        except APIError as error:
            if not is_unusable(error):
                raise
            attempt.log.info("Input file %s cannot be used any more: %s", record.input_file_id, error)
    source = attempt.place.here / shard.file
    if not source.exists():
        source = attempt.place.home / shard.file
    return submitter.submit_file(spec, key, source, plan.input_expires_after)
