"""
Controls a job: ``prepare`` it, ``advance`` it from one wait to the next, ``finish`` it.

Nothing here waits or knows about Airflow. ``advance`` does all that can be done now and says what to wait
for; after the wait, the caller passes its result to ``heard``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from airflow_provider_openai_batches.api.retry import is_passing
from airflow_provider_openai_batches.exceptions import (
    APIError,
    BatchTimeout,
    CreateUncertainError,
    InvalidInputError,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.idempotency.ledger import Ledger
from airflow_provider_openai_batches.inference.data.job import Job
from airflow_provider_openai_batches.inference.data.merge import check_output
from airflow_provider_openai_batches.inference.records import RECORDS_FILE, Records
from airflow_provider_openai_batches.inference.results import (
    JobResults,
    digests,
    dry_run_summary,
    summary_of,
)
from airflow_provider_openai_batches.inference.submit import Submissions, delete_input_files
from airflow_provider_openai_batches.inference.workspace import check_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.manifest import Manifest
    from airflow_provider_openai_batches.inference.data.requests import Request
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.inference.workspace import Workspace

# If a batch is rejected, that happens while it is validated, and other batches can then be submitted. So a
# wait for a batch that is being validated ends after this many poll intervals.
CHECK_AFTER = 5


class WaitFor(NamedTuple):
    """
    What to wait for.

    :param batch_ids: the batches; if empty, only the time is waited for.
    :param until: Unix seconds; None: as long as the batches may run.
    :param any_of_them: whether the wait ends with the first batch that ends, or with the last one.
    """

    batch_ids: list[str]
    until: float | None
    any_of_them: bool


class Runner:
    """
    Runs one job, or the part of it that falls to one process.
    Begin with :meth:`prepare`, or with :meth:`resume` in the process that goes on after a wait.

    :param since: Unix time since when the service may have batches of earlier tries; None: there are none.
    :param clock: returns the time in Unix seconds.
    """

    job: Job
    records: Records

    def __init__(
        self,
        settings: Settings,
        workspace: Workspace,
        submitter: Submitter,
        log: Log,
        *,
        since: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.workspace, self.submitter = settings, workspace, submitter
        self._log, self._since, self._clock = log, since, clock
        self._index: ResultIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.workspace.close()

    # -- the beginning -------------------------------------------------------------------------------------

    def prepare(self, requests: Iterable[Request]) -> dict[str, Any] | None:
        """
        Write the request files, and load what earlier tries know about the job.

        :return: a summary if the results of exactly this job exist already; otherwise None: continue with
            :meth:`advance`.
        :raises InvalidInputError: if the settings, the output directory or a row cannot be used. Settings and
            directory are checked before the first row is read.
        """
        settings, place = self.settings, self.workspace
        job, digest, results_digest, manifest = self._write(requests, is_claimed=True)
        if manifest is not None and settings.reuse:
            self._log.info("%s already holds the results of this job: nothing is sent", place.output)
            place.discard()
            # The try that wrote them may have died before it had cleaned up.
            self._clean_up(Records.load(place.kept) if place.open(place.name_of(digest)) else None)
            return summary_of(manifest, str(place.output))
        place.keep(job, digest, anew=not settings.reuse)
        self._log.info("Rows: %d, batches: %d, bytes: %d", job.rows, len(job.shards), job.bytes)
        now, known = self._clock(), Records.load(place.kept) if settings.reuse else None
        salt = "" if settings.reuse else keys.one_time_key()
        new = Records(digest=results_digest, started=now, since=self._since, salt=salt)
        self._begin(known.next_try(new) if known else new)
        return None

    def rehearse(self, requests: Iterable[Request]) -> dict[str, Any]:
        """Write the request files, and say how large the job is; nothing is sent."""
        job, digest, *_ = self._write(requests, is_claimed=False)
        self.workspace.keep(job, digest)
        self._log.info("A dry run, nothing is sent; rows: %d, files: %d", job.rows, len(job.shards_of(0)))
        return dry_run_summary(job, str(self.workspace.output), str(self.workspace.kept))

    def resume(self, name: str) -> bool:
        """Continue the job that another process left; False if its files are gone."""
        if not name or not self.workspace.open(name):
            return False
        records = Records.load(self.workspace.kept)
        if records is None:
            return False
        self._begin(records)
        return True

    def _write(
        self, requests: Iterable[Request], *, is_claimed: bool
    ) -> tuple[Job, str, str, Manifest | None]:
        """Return the job, its digest, its results' digest, and the manifest that is there already."""
        from airflow_provider_openai_batches.inference.data.shards import write_shards  # noqa: PLC0415 - not on a resume

        settings, output = self.settings, self.workspace.output
        settings.spec.check()
        check_output(settings.output, settings.output_format)
        check_target(output)
        if is_claimed:
            self.workspace.claim.take(self._clock(), overwrite=settings.overwrite)
        try:
            folder = self.workspace.begin()
            job = write_shards(
                requests,
                folder,
                endpoint=settings.spec.endpoint,
                limits=settings.limits,
                max_requests=settings.max_requests,
                completed=self.workspace.park,
            )
            digest, results_digest = digests(settings, job, folder)
            manifest = self.workspace.check_target(results_digest, overwrite=settings.overwrite)
        except BaseException:
            self.workspace.discard()
            raise
        return job, digest, results_digest, manifest

    def _begin(self, records: Records) -> None:
        job = Job.load(self.workspace.local)
        if job is None:
            raise RuntimeError(f"{self.workspace.local} holds no job")
        self.job, self.records = job, records
        collaborators = self.settings, self.submitter, self.workspace, records, self._log
        self._submissions, self._results = Submissions(*collaborators), JobResults(*collaborators)

    # -- from wait to wait ---------------------------------------------------------------------------------

    def advance(self) -> WaitFor | None:
        """
        Do all that can be done now.

        :return: what to wait for; None if there is nothing left to wait for.
        :raises OpenAIBatchesError: for an error that waiting cannot help.
        """
        submitter, records, since = self.submitter, self.records, self.records.since
        submitter.ledger = None if since is None else Ledger(submitter.service, submitter.task, since)
        self._hold()
        try:
            return self._advance()
        except CreateUncertainError as error:
            if records.since is None:
                records.since = records.started  # look for its batch before another one is created
            return self._wait_for_the_service(error)
        except (APIError, TransportError) as error:
            if not is_passing(error):
                raise
            return self._wait_for_the_service(error)
        finally:
            records.save(self.workspace.local)
            self.workspace.store([RECORDS_FILE])

    def _hold(self) -> None:
        """
        Keep the output directory for as long as the batches may run.

        :raises InvalidInputError: if another task has it now; what still runs is cancelled.
        """
        place, now = self.workspace, self._clock()
        try:
            if not place.claim.is_there:  # somebody deleted it, or another task has finished here since
                place.check_target(self.records.digest, overwrite=self.settings.overwrite)
            place.claim.extend(now, max([now, *(record.deadline for record in self.records.active)]))
        except InvalidInputError as error:
            ended = ", ".join(self.cancel())
            raise InvalidInputError(f"{error}. Cancelled: {ended or 'nothing was running'}.") from error

    def heard(self, statuses: Mapping[str, str]) -> bool:
        """
        Note what a wait saw.

        :param statuses: the statuses of batches, by id.
        :return: whether the time is up.
        """
        for record in self.records.active:
            record.status = statuses.get(record.batch_id or "", record.status)
        return self._is_overdue()

    def progress(self) -> dict[str, int]:
        """Return what was done so far, for the log of the wait."""
        return self.records.progress(self.job)

    def cancel(self) -> list[str]:
        """Cancel the running batches, and say what became of each."""
        return self._submissions.cancel()

    @property
    def _limit(self) -> float | None:
        """When this try must end."""
        seconds, limit = self.settings.deadline_seconds, self.settings.must_end
        if seconds is None:
            return limit
        return min(self.records.started + seconds, float("inf") if limit is None else limit)

    def _advance(self) -> WaitFor | None:
        records, submissions = self.records, self._submissions
        while True:
            submissions.find(self.job.shards)
            if self._results.collect():
                self._slow_down()
            if records.active or records.without_batch(self.job.shards):
                submissions.cancel_outdated(self.job.shards)
                submissions.submit(self.job.shards, self._room())
                records.since = None  # no batch is unknown now
                if not any(record.is_over for record in records.active) and (wait := self._next_wait()):
                    self._hold()
                    return wait
            elif records.rejected or not self._begin_next_round():
                submissions.cancel_outdated(self.job.shards)
                return None

    def _room(self) -> int:
        now = self._clock()
        if self._limit is not None and now >= self._limit:
            return 0
        return self.records.room(now, self.settings.max_active_batches)

    def _begin_next_round(self) -> bool:
        """Put rows that have no answer yet, and may get one, into new shards; False if there are none."""
        self._index = self._results.read(self.job)
        rounds = self.job.round - len(self.records.cut)
        if not self._index.unfinished or rounds >= self.settings.max_rounds:
            return False
        self._log.info(
            "Round %d: %d of %d rows are asked again",
            self.job.round + 1,
            self._index.unfinished,
            self.job.rows,
        )
        self.job = self._results.next_round(self._index)
        self._index = None
        return True

    def _next_wait(self) -> WaitFor | None:
        active, waiting = self.records.active, self.records.without_batch(self.job.shards)
        now, ends = self._clock(), [self._limit]
        if waiting and not active:
            ends.append(self.records.next_creation(now))
        elif any(record.status == "validating" for record in active):
            ends.append(now + CHECK_AFTER * self.settings.poll_interval)
        elif not active:
            return None
        until = min((end for end in ends if end is not None), default=None)
        # A batch that has ended makes room for another one, or has results that the service deletes soon.
        any_of_them = bool(waiting) or self.settings.spec.output_expires_after is not None
        return WaitFor([str(record.batch_id) for record in active], until, any_of_them)

    def _is_overdue(self) -> bool:
        """Whether there is no time left for what still runs, or is still to be submitted."""
        running = [record.deadline for record in self.records.active if not record.is_over]
        if not running and not self.records.without_batch(self.job.shards):
            return False
        limit = max(running, default=None) if self._limit is None else self._limit
        return limit is not None and self._clock() >= limit

    def _slow_down(self) -> None:
        """Note that the enqueued-token limit has room for the batches that run now, and for no more."""
        running = len(self.records.active)
        self.records.active_limit = max(1, running)
        if not running:  # then others use up the limit
            self._pause("The enqueued-token limit is reached although no batch of this job is queued")

    def _wait_for_the_service(self, error: OpenAIBatchesError) -> WaitFor:
        if self._limit is not None and self._clock() >= self._limit and not self._is_overdue():
            raise BatchTimeout(
                f"The time is up, and the results of batches that are over cannot be read ({error}). "
                "No batch runs. Another try continues from there."
            ) from error
        self._pause(f"The service does not answer as it should ({error})")
        running = [str(record.batch_id) for record in self.records.active if not record.is_over]
        until = self.records.not_before
        return WaitFor(running, until if self._limit is None else min(until, self._limit), any_of_them=False)

    def _pause(self, why: str) -> None:
        seconds = self.records.pause(why, self._clock(), self.settings.poll_interval)
        self._log.warning("%s; continuing in %.0f s", why, seconds)

    # -- the end -------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, Any]:
        """
        Write the parts, and if the job succeeded its manifest; then remove what is not needed any more.

        :return: a summary.
        :raises BatchFailed: if a batch was rejected, or too many rows have no valid answer.
        """
        self._hold()
        manifest = self._results.finish(self.job, self._index, self._clock())
        self.submitter.service.note_outputs(self.workspace.output)
        self._clean_up(self.records)
        return summary_of(manifest, str(self.workspace.output))

    def _clean_up(self, records: Records | None) -> None:
        if records and self.settings.delete_input_files:
            delete_input_files(records, self.submitter, self._log)
        self.workspace.clear()
