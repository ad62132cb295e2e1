"""One try of a job: all that its steps share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.records import Record, Records
    from airflow_provider_openai_batches.inference.settings import Plan
    from airflow_provider_openai_batches.inference.workspace import Workplace

LONGEST_PAUSE = 900.0
PATIENCE = 86_400.0


class Attempt(msgspec.Struct, kw_only=True):
    """
    :param records: what is known of the job's batches.
    :param clock: the time in Unix seconds.
    """

    plan: Plan
    place: Workplace
    job: Job
    records: Records
    submitter: Submitter
    log: Log
    clock: Callable[[], float] = time.time

    @property
    def open_shards(self) -> list[Shard]:
        """Those for which a batch is still to be submitted."""
        return [shard for shard in self.job.shards if self.records.of(shard.index).is_open]

    @property
    def limit(self) -> float | None:
        """When this try has no more time."""
        seconds = self.plan.deadline_seconds
        return None if seconds is None else self.records.started + seconds

    def key(self, shard: Shard) -> str:
        """
        The key of the shard's batch: the content says what is asked.

        A batch that was rejected leaves its key behind; the next one of the shard has another.
        """
        attempt = self.records.of(shard.index).attempt
        again = f" {attempt}" if attempt else ""
        return self.submitter.key(f"{shard.sha256}{self.records.salt}{again}", shard.index)

    def watch(self, records: Iterable[Record]) -> None:
        """Note what a kill has to cancel."""
        self.submitter.known.update(record.batch_id for record in records if record.batch_id)

    def pause(self, why: str) -> None:
        """
        Back off.

        :raises OpenAIBatchesError: if nothing but pauses has happened for a day.
        """
        now, records = self.clock(), self.records
        records.stuck_since = records.stuck_since or now
        if now - records.stuck_since > PATIENCE:
            raise OpenAIBatchesError(
                f"{why}, for a day now. Nothing was lost: another try goes on where this one ends. Where the "
                "enqueued-token limit is the reason, smaller shards may fit: see max_requests_per_batch."
            )
        seconds = min(self.plan.poll_interval * 2 ** min(records.setbacks, 16), LONGEST_PAUSE)
        records.setbacks += 1
        records.not_before = now + seconds
        self.log.warning("%s; going on in %.0f s", why, seconds)
