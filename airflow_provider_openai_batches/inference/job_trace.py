"""What a job says of itself in traces when it is over: complete, or failed by an error."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.inference.records import RECORDS_FILE
from airflow_provider_openai_batches.observability import traces
from airflow_provider_openai_batches.observability.traces import OURS, BatchSpan, JobSpan
from airflow_provider_openai_batches.pricing.cost import Bill

if TYPE_CHECKING:
    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.data.manifest import Manifest
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.shard_record import Record

# A job may have any number of models; so many are named.
SHOWN_MODELS = 20


class JobTrace:
    """
    Makes the spans of a job, in the process in which it ends.

    A try that fails has a span with the batches that have ended so far, and the next one a span with the
    others: none of them has two.
    """

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._is_over = False

    def complete(self, job: Job, manifest: Manifest, now: float) -> None:
        """Tell of a job whose manifest is written."""
        self._tell(job, now, manifest, None)

    def failed(self, job: Job, error: Exception, now: float) -> None:
        """Tell of a try that ends with an error, if anything was sent, and note it for the next one."""
        records, workspace = self._context.records, self._context.workspace
        if records.has_begun and self._tell(job, now, None, type(error).__name__):
            with suppress(Exception):  # the error of the try matters more
                records.save(workspace.local)
                workspace.store([RECORDS_FILE])

    def _tell(self, job: Job, now: float, manifest: Manifest | None, error: str | None) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        describe = partial(self._describe, job, now, manifest, error)
        return traces.job_over(describe, self._context.settings.carrier)

    def _describe(self, job: Job, now: float, manifest: Manifest | None, error: str | None) -> JobSpan:
        settings, submitter, records = self._context.settings, self._context.submitter, self._context.records
        told = [each for each in records.submitted(job) if each[1].has_ended and not each[1].is_traced]
        task = submitter.task
        known = {
            **traces.task_attributes(
                task.dag_id, task.run_id, task.task_id, task.map_index, settings.try_number
            ),
            f"{OURS}.endpoint": job.endpoint,
            f"{OURS}.models": sorted({shard.model for shard in job.shards if shard.model})[:SHOWN_MODELS],
            f"{OURS}.rows.total": job.rows,
            f"{OURS}.rounds": job.round,
            f"{OURS}.batches.running": len(records.active),
            f"{OURS}.batches.rejected": sum(record.attempt + bool(record.error) for _, record in told),
        }
        batches = [self._batch(shard, record, now) for shard, record in told]
        for _, record in told:
            record.is_traced = True
        return JobSpan(
            name=f"{task.dag_id}.{task.task_id}",
            base_url=submitter.service.config.base_url,
            began=records.started,
            ended=now,
            error=error,
            batches=batches,
            attributes=known if manifest is None else {**known, **_of_results(manifest)},
        )

    def _batch(self, shard: Shard, record: Record, now: float) -> BatchSpan:
        ended = record.ended_at or record.rejected_at or now
        return BatchSpan(
            str(record.batch_id),
            record.status,
            self._context.settings.spec.endpoint,
            record.created_at or ended,
            ended,
            model=shard.model,
            answered_by=record.model,
            counts=(record.total, record.completed, record.failed),
            usage=record.usage,
            cost=self._cost(record),
            error=traces.error_of(record.status, record.error.code if record.error else None),
            more={"round": shard.said_round, "shard": shard.index},
        )

    def _cost(self, record: Record) -> float | None:
        if record.usage is None:
            return None
        bill = Bill(self._context.settings.prices)
        bill.meter(record.model, "batch").add_several(record.usage, record.completed or record.total)
        return traces.known(bill.cost())


def _of_results(manifest: Manifest) -> dict[str, Any]:
    return {
        **{f"{OURS}.rows.{status}": number for status, number in manifest.counts.items() if number},
        f"{OURS}.live.rows": manifest.live.rows if manifest.live else None,
        f"{OURS}.cost_usd": traces.known(manifest.cost),
        **traces.usage_attributes(manifest.usage, OURS),
    }
