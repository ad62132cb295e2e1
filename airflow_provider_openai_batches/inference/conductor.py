"""
What is done next in a job.

``advance`` takes up what earlier tries left, downloads what is over, asks again what must be, and submits
what may be; then it says what to wait for. Nothing here waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_openai_batches.api.retry import is_passing
from airflow_provider_openai_batches.exceptions import (
    APIError,
    CreateUncertainError,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.idempotency.ledger import Ledger
from airflow_provider_openai_batches.inference import landing
from airflow_provider_openai_batches.inference.collect import collect
from airflow_provider_openai_batches.inference.earlier import cancel_outdated, take_up
from airflow_provider_openai_batches.inference.records import RECORDS_FILE
from airflow_provider_openai_batches.inference.submit import next_creation, submit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.inference.attempt import Attempt
    from airflow_provider_openai_batches.inference.data.index import ResultIndex

# While batches are being validated, somebody looks after so many poll intervals whether one was rejected.
CHECK_AFTER = 5


class Wait(NamedTuple):
    """What to wait for: batches, or with none of them a moment in Unix seconds."""

    batch_ids: list[str]
    until: float | None
    any_of_them: bool


class Conductor:
    """Takes an attempt from wait to wait, to its end."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.index: ResultIndex | None = None
        attempt.watch(attempt.records.active)

    def heard(self, statuses: Mapping[str, str]) -> None:
        """Take what a wait saw of the batches."""
        for record in self.attempt.records.active:
            record.status = statuses.get(record.batch_id or "", record.status)

    def is_overdue(self) -> bool:
        """Whether there is no more time for what still runs, or is still to be submitted."""
        attempt = self.attempt
        running = [record.deadline for record in attempt.records.active if not record.is_over]
        if not running and not attempt.open_shards:
            return False
        limit = max(running, default=None) if attempt.limit is None else attempt.limit
        return limit is not None and attempt.clock() >= limit

    def advance(self) -> Wait | None:
        """
        Do all that can be done now.

        :return: what to wait for; None if all is there that will ever come.
        :raises OpenAIBatchesError: what waiting cannot mend.
        """
        attempt = self.attempt
        submitter = attempt.submitter
        since = attempt.records.since
        submitter.ledger = None if since is None else Ledger(submitter.service, submitter.task, since)
        try:
            wait = self._until_nothing_is_left()
        except CreateUncertainError as error:
            if attempt.records.since is None:
                attempt.records.since = attempt.records.started  # look for it before it is created again
            wait = self._stumble(error)
        except (APIError, TransportError) as error:
            if not is_passing(error):
                raise
            wait = self._stumble(error)
        finally:
            self._save()
        return wait

    def _until_nothing_is_left(self) -> Wait | None:
        attempt = self.attempt
        while True:
            take_up(attempt)
            collect(attempt)
            if attempt.open_shards or attempt.records.active:
                cancel_outdated(attempt)
                submit(attempt)
                attempt.records.since = None  # all that there was is known
                if not any(record.is_over for record in attempt.records.active) and (wait := self._wait()):
                    return wait
            elif attempt.records.rejected or not self._ask_again():
                cancel_outdated(attempt)
                return None

    def _ask_again(self) -> bool:
        """Put what has no answer yet, and may get one, into new shards."""
        attempt = self.attempt
        self.index = landing.read_results(attempt)
        rounds = attempt.job.round - len(attempt.records.cut)
        if not self.index.unfinished or rounds >= attempt.plan.max_rounds:
            return False
        attempt.log.info(
            "Round %d: %d of %d rows are asked again",
            attempt.job.round + 1,
            self.index.unfinished,
            attempt.job.rows,
        )
        attempt.job = landing.ask_again(attempt.place, self.index)
        self.index = None
        return True

    def _wait(self) -> Wait | None:
        attempt = self.attempt
        active, waiting = attempt.records.active, attempt.open_shards
        ends = [attempt.limit]
        if waiting and not active:
            ends.append(next_creation(attempt))
        elif any(record.status == "validating" for record in active):
            ends.append(attempt.clock() + CHECK_AFTER * attempt.plan.poll_interval)
        elif not active:
            return None
        until = min((end for end in ends if end is not None), default=None)
        # A place that becomes free is to be used; results that the service deletes soon are to be fetched.
        any_of_them = bool(waiting) or attempt.plan.output_expires_after is not None
        return Wait([str(record.batch_id) for record in active], until, any_of_them)

    def _stumble(self, error: OpenAIBatchesError) -> Wait:
        """The service does not answer as it should: go on later."""
        attempt = self.attempt
        attempt.pause(f"The service does not answer as it should ({error})")
        running = [str(record.batch_id) for record in attempt.records.active if not record.is_over]
        until = attempt.records.not_before
        return Wait(running, until if attempt.limit is None else min(until, attempt.limit), any_of_them=False)

    def _save(self) -> None:
        attempt = self.attempt
        attempt.records.save(attempt.place.here)
        attempt.place.store([RECORDS_FILE])
