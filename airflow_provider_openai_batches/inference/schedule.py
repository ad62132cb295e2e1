"""When a job has to do something next, and how much it may do until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_openai_batches.exceptions import BatchTimeout
from airflow_provider_openai_batches.inference.records import CREATIONS_AN_HOUR
from airflow_provider_openai_batches.polling.progress import moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
    from airflow_provider_openai_batches.inference.budget import Budget
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.polling.wait import ReturnWhen

# If a batch is rejected, that happens while it is validated, and other batches can then be submitted. So a
# wait for a batch that is being validated ends after this many poll intervals.
CHECK_AFTER = 5
# The same where more batches are submitted as soon as the service has taken the first ones.
TESTS_AFTER = 2


class WaitFor(NamedTuple):
    """
    What to wait for.

    :param batch_ids: the batches; if empty, only the time is waited for.
    :param until: Unix seconds; None: as long as the batches may run.
    :param return_when: what ends the wait, as the trigger's argument.
    """

    batch_ids: list[str]
    until: float | None
    return_when: ReturnWhen


class Schedule:
    """
    Says when a job goes on.

    ``trouble`` says why the service cannot be used, while that is waited for.

    :param clock: returns the time in Unix seconds.
    """

    def __init__(
        self, settings: Settings, records: Records, budget: Budget, log: Log, clock: Callable[[], float]
    ) -> None:
        self._settings, self._records, self._budget = settings, records, budget
        self._log, self._clock = log, clock
        self.trouble = ""

    @property
    def limit(self) -> float | None:
        """When this try must end."""
        seconds, limit = self._settings.deadline_seconds, self._settings.must_end
        if seconds is None:
            return limit
        return min(self._records.started + seconds, float("inf") if limit is None else limit)

    @property
    def answer_time(self) -> float | None:
        """When every row is to have its answer."""
        records = self._records
        return self._settings.answer_time(records.counts_from or records.started)

    @property
    def is_late(self) -> bool:
        return self.answer_time is not None and self._clock() >= self.answer_time

    def is_due(self, job: Job) -> bool:
        """Whether no batch is waited for any more, or none ever was."""
        return self.is_late or self._settings.mode == "live" or job.rows <= self._settings.canary

    @property
    def why_due(self) -> str:
        return "the time of answer_by is up" if self.is_late else "its rows are asked live"

    def wants_canary(self, job: Job) -> bool:
        """Whether the first rows are to be asked live before anything is submitted."""
        records = self._records
        # Batches of a job whose files were lost were submitted after its canary.
        is_new = not (records.has_canary or records.has_created or self.is_late)
        return is_new and 0 < self._settings.canary < job.rows

    def wait_for_the_end(self) -> WaitFor | None:
        """Wait for all batches that run; None if there are none."""
        active = [str(record.batch_id) for record in self._records.active]
        return WaitFor(active, self.limit, "ALL_COMPLETED") if active else None

    def is_busy(self, job: Job) -> bool:
        """Whether a batch runs, or is still to be submitted."""
        return bool(self._records.active or self._records.without_batch(job.shards))

    def room(self) -> int:
        now = self._clock()
        if self.limit is not None and now >= self.limit:
            return 0
        return self._records.room(now, self._settings.max_active_batches)

    def why_no_room(self) -> str:
        """Say why nothing more may be submitted now."""
        records, now = self._records, self._clock()
        running, most = len(records.active), self._settings.max_active_batches
        if self.limit is not None and now >= self.limit:
            return f"nothing is sent after {moment(self.limit)}, when this try has to end"
        if now < records.not_before:
            are_sent_again = any(
                record.attempt and record.needs_batch for record in records.by_shard.values()
            )
            what = "a rejected batch is sent again" if are_sent_again else "the next one is sent"
            return f"{what} at {moment(records.not_before)}"
        if records.active_limit is not None and running >= records.active_limit and running < most:
            return f"{running:,} run, and the service took no more: its limit of tokens in line is full"
        if running >= most:
            return f"{running:,} run, and max_active_batches is {most:,}"
        next_one = moment(records.next_creation(now))
        return f"{CREATIONS_AN_HOUR:,} were created within an hour; the next one is sent at {next_one}"

    def is_ripe(self, job: Job) -> bool:
        """Whether it is time to ask again for what the batches left open."""
        ripe_at = self.ripe_at(job)
        return ripe_at is not None and (not self.is_busy(job) or self._clock() >= ripe_at)

    def ripe_at(self, job: Job) -> float | None:
        """When rows are asked again although batches run; None: not before they are over."""
        records = self._records
        are_any = any(shard.is_found and records.of(shard.index).is_active for shard in job.shards)
        if are_any or records.rejected or not records.left_open:
            return None
        return records.ripe_at(self._settings.poll_interval)

    def next_wait(self, job: Job) -> WaitFor | None:
        active, waiting = self._records.active, self._records.without_batch(job.shards)
        now, ends = self._clock(), [self.limit]
        if waiting and self._budget.is_shared:
            room_at = now + CHECK_AFTER * self._settings.poll_interval
            ends.append(max(self._records.next_creation(now), room_at))
        elif waiting and not active:
            may_go_on = self._records.next_creation(now)
            # If this is not a pause, the task's own batches of an earlier try are in line.
            ends.append(may_go_on if may_go_on > now else now + CHECK_AFTER * self._settings.poll_interval)
        elif any(record.status == "validating" for record in active):
            ends.append(now + (TESTS_AFTER if waiting else CHECK_AFTER) * self._settings.poll_interval)
        elif not active:
            return None
        ends += [self.ripe_at(job), self.answer_time]
        until = min((end for end in ends if end is not None), default=None)
        return WaitFor([str(record.batch_id) for record in active], until, self._return_when(bool(waiting)))

    def _return_when(self, is_waiting: bool) -> ReturnWhen:
        settings = self._settings
        # A batch that has ended makes room for another one, has results that the service deletes soon, or may
        # have answers that are not valid.
        if is_waiting or settings.retry_invalid or settings.spec.output_expires_after is not None:
            return "FIRST_COMPLETED"
        # When the last batch ends, the results of all others are to be here.
        return "ONE_LEFT" if self._records.left_open or not settings.max_rounds else "FIRST_EXCEPTION"

    def is_overdue(self, job: Job) -> bool:
        """Whether there is no time left for what still runs, or is still to be submitted."""
        running = [record.deadline for record in self._records.active if not record.is_over]
        if not running and not self._records.without_batch(job.shards):
            return False
        limit = max(running, default=None) if self.limit is None else self.limit
        return limit is not None and self._clock() >= limit

    def slow_down(self) -> None:
        """Note that the enqueued-token limit has room for the batches that run now, and for no more."""
        running = len(self._records.active)
        self._records.active_limit = max(1, running)
        if not running:  # then others use up the limit
            self._pause("The enqueued-token limit is reached although no batch of this job is queued")

    def wait_for_the_service(self, error: OpenAIBatchesError, job: Job) -> WaitFor:
        if self.limit is not None and self._clock() >= self.limit and not self.is_overdue(job):
            raise BatchTimeout(
                f"The time is up, and the results of batches that are over cannot be read ({error}). "
                "No batch runs. Another try continues from there."
            ) from error
        self.trouble = str(error)
        self._pause(f"The service does not answer as it should ({error})")
        running = [str(record.batch_id) for record in self._records.active if not record.is_over]
        until = self._records.not_before
        return WaitFor(running, until if self.limit is None else min(until, self.limit), "ALL_COMPLETED")

    def _pause(self, why: str) -> None:
        seconds = self._records.pause(why, self._clock(), self._settings.poll_interval)
        self._log.warning("%s; continuing in %.0f s", why, seconds)
