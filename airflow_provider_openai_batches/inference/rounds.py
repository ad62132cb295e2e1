"""Asks again for what batches left open, and cuts what is too large for any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.in_line import LIMIT_EXCEEDED

if TYPE_CHECKING:
    from airflow_provider_openai_batches.inference.data.job import Cut, Job
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.results import JobResults
    from airflow_provider_openai_batches.inference.schedule import Schedule
    from airflow_provider_openai_batches.inference.shard_record import Record


class Rounds:
    """Makes more shards of rows that have no answer."""

    def __init__(self, context: JobContext, results: JobResults) -> None:
        self._records, self._log, self._budget = context.records, context.log, context.budget
        self._results = results

    def ask_again(self, job: Job, schedule: Schedule) -> Job:
        """
        Put rows that the batches left open into new shards, while others still run.

        :return: the job with the new shards; the same job if there are none.
        """
        left = self._records.left_open
        if self._records.rejected or not schedule.is_ripe(job):
            return job
        cut = self._cut(job)
        try:
            after = self._results.follow_up(job, cut)
        except InvalidInputError as error:
            if cut is None or not self._records.has_batches:
                raise
            self._refuse([record for record in left if record.is_too_large], error)
            return job
        for record in left:
            record.unfinished = 0
        if new := after.shards[len(job.shards) :]:
            first, again = sum(shard.new_rows for shard in new), sum(shard.asked_again for shard in new)
            if again:
                self._log.info("Round %d: %d of %d rows are asked again", new[0].round, again, job.rows)
            if first:
                self._log.info(
                    "%d of %d rows come into new files, and are asked for the first time", first, job.rows
                )
        return after

    def _refuse(self, records: list[Record], error: InvalidInputError) -> None:
        """Fail the rows of shards of which one request is too large; batches that run are waited for."""
        for record in records:
            record.error, record.files = RowError(LIMIT_EXCEEDED, str(error)), None
        self._log.error("%s. Nothing more is submitted; the task waits for what runs, and then fails", error)

    def give_up_answered(self, job: Job) -> None:
        """Give up shards with rows that need not be asked, before they are sent."""
        waiting = self._records.without_batch(job.shards_of(0))
        if not waiting or self._records.rejected:
            return
        partial = [shard for shard in waiting if self._results.is_partly_answered(job, shard)]
        for shard in partial:
            self._records.give_up(shard.index)
        if partial:
            self._log.info(
                "%d of %d files have rows that need not be asked: their other rows come into new files",
                len(partial),
                len(job.shards_of(0)),
            )

    def give_up_too_large(self, job: Job) -> None:
        """Have the requests of shards that are larger than the enqueued-token limit asked in smaller ones."""
        for shard in self._records.without_batch(job.shards):
            # After a rejection nothing is asked again, and what waits is not submitted.
            if not self._records.rejected and self._budget.is_too_large(shard):
                self._log.info(
                    "Shard %d: about %d tokens are too many where a batch may have %d; it is cut",
                    shard.index,
                    self._budget.tokens(shard),
                    self._budget.most(shard.model),
                )
                self._records.give_up(shard.index)
                self._records.of(shard.index).is_too_large = True

    def _cut(self, job: Job) -> Cut | None:
        """Return how to cut what is asked again, where a shard of it was too large."""
        cuts = [
            self._budget.piece_of(shard)
            for shard in job.shards
            if (record := self._records.of(shard.index)).is_too_large
            and record.unfinished
            and self._budget.limit(shard.model)
        ]
        return min(cuts, default=None)
