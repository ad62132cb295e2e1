"""
Controls a job: ``prepare`` it, ``advance`` it from one wait to the next, ``finish`` it.

Nothing here waits or knows about Airflow. ``advance`` does all that can be done now and says what to wait
for; after the wait, the caller passes its result to ``heard``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_openai_batches.api.retry import is_passing
from airflow_provider_openai_batches.exceptions import (
    APIError,
    CreateUncertainError,
    InvalidInputError,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.idempotency.ledger import Ledger
from airflow_provider_openai_batches.inference.budget import Budget
from airflow_provider_openai_batches.inference.data.job import JOB_FILE, Job
from airflow_provider_openai_batches.inference.job_context import JobContext
from airflow_provider_openai_batches.inference.job_report import Reporter
from airflow_provider_openai_batches.inference.live_files import live_lines
from airflow_provider_openai_batches.inference.outlook import Outlook
from airflow_provider_openai_batches.inference.preparation import Preparation
from airflow_provider_openai_batches.inference.purse import Purse
from airflow_provider_openai_batches.inference.records import RECORDS_FILE, Records
from airflow_provider_openai_batches.inference.results import JobResults
from airflow_provider_openai_batches.inference.rounds import Rounds
from airflow_provider_openai_batches.inference.schedule import Schedule, WaitFor
from airflow_provider_openai_batches.inference.settings import check_answer_time
from airflow_provider_openai_batches.inference.submit import Submissions, delete_input_files
from airflow_provider_openai_batches.inference.summary import (
    dry_run_summary,
    progress_of,
    sources_in_words,
    sources_of,
    summary_of,
)
from airflow_provider_openai_batches.inference.target import explain, refuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.data.manifest import Manifest
    from airflow_provider_openai_batches.inference.data.requests import Request
    from airflow_provider_openai_batches.inference.job_report import Listener
    from airflow_provider_openai_batches.inference.live_rows import LiveRows
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.inference.workspace import Workspace


class Runner:
    """
    Runs one job, or the part of it that falls to one process.
    Begin with :meth:`prepare`, or with :meth:`resume` in the process that goes on after a wait.

    :param since: Unix time since when the service may have batches of earlier tries; None: there are none.
    :param clock: returns the time in Unix seconds.
    :param check_start: is called in a later try before anything is sent, if no earlier one sent anything.
    :param listener: is told before each wait, before rows are asked live, and at the end.
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
        check_start: Callable[[], object] = lambda: None,
        listener: Listener | None = None,
    ) -> None:
        self.settings, self.workspace, self.submitter = settings, workspace, submitter
        self._log, self._since, self._clock = log, since, clock
        self._preparation, self._check_start = Preparation(settings, workspace, log), check_start
        self._reporter = Reporter(listener, log, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            explain(error, self.workspace.output)
        except OpenAIBatchesError as explained:
            error = explained
            raise
        finally:
            self._reporter.ended(vars(self).get("job"), error)
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
        settings, place, now = self.settings, self.workspace, self._clock()
        if self._since is None:  # a later try ends what the earlier ones began
            check_answer_time(settings, now)
        with refuses(place.output):
            job, digest, results_digest, manifest, digests = self._preparation.write(
                requests, now, is_claimed=True
            )
        if manifest is not None and settings.reuse:
            place.discard()
            return self._already_done(manifest, [place.name_of(digest)])
        place.keep(job, digest, anew=not settings.reuse)
        self._log.info("Rows: %d, batches: %d, bytes: %d", job.rows, len(job.shards), job.bytes)
        known = Records.load(place.kept) if settings.reuse and place.has(RECORDS_FILE) else None
        salt = "" if settings.reuse else keys.one_time_key()
        new = Records(digest=results_digest, started=now, since=self._since, salt=salt)
        new.counts_from = now if settings.begins_anew else 0.0
        records = known.next_try(new) if known else new
        self._preparation.look_up(job, digests, records, now)
        self._begin(records)
        self._check_cost()
        return None

    def done_before(self) -> dict[str, Any] | None:
        """Return the summary of the job if an earlier try completed it, otherwise None; no row is read."""
        settings, place = self.settings, self.workspace
        if self._since is None or not settings.reuse:
            return None
        manifest = place.made_by_earlier_try(first_try=settings.first_try, try_number=settings.try_number)
        return None if manifest is None else self._already_done(manifest, place.own_jobs())

    def _already_done(self, manifest: Manifest, names: list[str]) -> dict[str, Any]:
        place = self.workspace
        self._log.info("%s already holds the results of this job: nothing is sent", place.output)
        # The try that wrote them may have died before it had cleaned up.
        opened = [name for name in names if place.open(name)]
        self._clean_up(Records.load(place.kept) if opened else None)
        self._reporter.completed(manifest)
        return summary_of(manifest, place.uri)

    def _check_cost(self) -> None:
        """
        Say what the job is going to cost, and refuse it if that is too much and nothing was spent yet.

        :raises InvalidInputError: naming ``max_cost``.
        """
        try:
            if self._since is None and not self.records.has_begun:
                self._purse.check_start(self.job, self._clock())
        except InvalidInputError:
            self.workspace.clear()
            raise
        self._log.info("Estimate of the whole job: %s", self._outlook.whole(self.job))

    def rehearse(self, requests: Iterable[Request]) -> dict[str, Any]:
        """Write the request files, and say how large the job is; nothing is sent."""
        now, preparation = self._clock(), self._preparation
        job, digest, _, _, wanted = preparation.write(requests, now, is_claimed=False)
        self.workspace.keep(job, digest)
        self._log.info("A dry run, nothing is sent; rows: %d, files: %d", job.rows, len(job.shards_of(0)))
        self._begin(Records(digest=digest, started=now))
        stored = preparation.count_stored(job, wanted, now)
        estimate = self._outlook.rehearse(job, stored, now)
        self._log.info("Estimate of the whole job: %s", estimate)
        sources = sources_of(job, stored, self.settings.mode) if self.settings.has_source else None
        if sources is not None:
            self._log.info("%s", sources_in_words(sources))
        return dry_run_summary(job, estimate, self.workspace.uri, str(self.workspace.kept), sources)

    def resume(self, name: str) -> bool:
        """Continue the job that another process left; False if its files are gone."""
        if not name or not self.workspace.open(name):
            return False
        records = Records.load(self.workspace.kept)
        if records is None:
            return False
        self._begin(records)
        self._preparation.check_files(self.job, records)
        return True

    def _begin(self, records: Records) -> None:
        job = Job.load(self.workspace.local)
        if job is None:
            raise RuntimeError(f"{self.workspace.local} holds no job")
        self.job, self.records = job, records
        records.stopped.update(shard.index for shard in job.shards if shard.round in records.cut)
        records.cut = set()
        task = self.submitter.task
        kind = task.dag_id, task.task_id
        service = self.submitter.service
        budget = Budget(self.settings, service, records, task.task_key, kind)
        outlook = Outlook(self.settings, records, budget, service=service, kind=kind, log=self._log)
        purse = Purse(self.settings, records, outlook, partial(live_lines, self.workspace))
        given = self.settings, self.submitter, self.workspace, records, self._log
        context = JobContext(*given, budget, purse, outlook)
        self._context, self._budget, self._purse, self._outlook = context, budget, purse, outlook
        self._schedule = Schedule(self.settings, records, budget, self._log, self._clock)
        self._submissions, self._results = Submissions(context), JobResults(context)
        self._rounds = Rounds(context, self._results)
        self._reporter.begin(context, self._schedule, self._results)

    # -- from wait to wait ---------------------------------------------------------------------------------

    def advance(self) -> WaitFor | None:
        """
        Do all that can be done now.

        :return: what to wait for; None if there is nothing left to wait for.
        :raises OpenAIBatchesError: for an error that waiting cannot help.
        """
        submitter, since = self.submitter, self.records.since
        submitter.ledger = None if since is None else Ledger(submitter.service, submitter.task, since)
        self._context.hold(self._clock(), self.cancel)
        wait = self._advance_or_pause(self.records)
        if wait is not None:
            self._reporter.waits(self.job, self._submissions.held, wait)
        return wait

    def _advance_or_pause(self, records: Records) -> WaitFor | None:
        try:
            return self._advance()
        except CreateUncertainError as error:
            if records.since is None:
                records.since = records.started  # look for its batch before another one is created
            return self._schedule.wait_for_the_service(error, self.job)
        except (APIError, TransportError) as error:
            if not is_passing(error):
                raise
            return self._schedule.wait_for_the_service(error, self.job)
        finally:
            self._save(records)

    def _save(self, records: Records) -> None:
        records.save(self.workspace.local)
        self.workspace.store([RECORDS_FILE])

    def heard(self, statuses: Mapping[str, str]) -> bool:
        """
        Note what a wait saw.

        :param statuses: the statuses of batches, by id.
        :return: whether the time is up.
        """
        for record in self.records.active:
            record.status = statuses.get(record.batch_id or "", record.status)
        return self._schedule.is_overdue(self.job)

    def progress(self) -> dict[str, int]:
        """Return what was done so far, for the log of the wait."""
        shards = [shard for shard in self.job.shards if self.records.of(shard.index).files is None]
        return {**progress_of(self.records, self.job), **self._budget.progress(shards)}

    def cancel(self) -> list[str]:
        """Cancel the running batches, and say what became of each."""
        return self._submissions.cancel()

    def _advance(self) -> WaitFor | None:
        records, submissions, began = self.records, self._submissions, self._clock()
        self._schedule.trouble = ""
        while True:
            self._find()
            if self._results.collect(self.job, self._clock()):
                self._schedule.slow_down()
            self._rounds.give_up_answered(self.job)
            if self._schedule.wants_canary(self.job):
                self._live.ask_first(self.job)
                if self._purse.is_empty:
                    return None
                self._purse.check_canary(self.job)
            if self._schedule.is_due(self.job):
                submissions.cancel_outdated(self.job)
                submissions.stop_running(self._schedule.why_due)
                if any(record.is_over for record in records.active):
                    continue
                return self._live.end(self.job, self._schedule)
            self._budget.look(self.job.shards, self._clock())
            self._rounds.give_up_too_large(self.job)
            if (job := self._rounds.ask_again(self.job, self._schedule)) is not self.job:
                self.job = job
                continue  # an earlier try may have made the same batches
            submissions.cancel_outdated(self.job)
            if not self._schedule.is_busy(self.job) or self._purse.is_spent(self.job):
                return None
            submissions.submit(self.job, self._schedule.room())
            records.since = None  # no batch is unknown now
            is_any_over = submissions.is_any_over(has_taken=self._clock() - began)
            if not is_any_over and (wait := self._schedule.next_wait(self.job)):
                self._context.hold(self._clock(), self.cancel)
                return wait

    def _find(self) -> None:
        """Find the batches of earlier tries; without any, the job begins only now."""
        self._set(self._submissions.find(self.job))
        if self.records.since is not None:
            if not self.records.has_begun:
                self._check_start()
            self._purse.check_later_start(self.job, self._clock())

    @property
    def _live(self) -> LiveRows:
        from airflow_provider_openai_batches.inference.live_rows import LiveRows  # noqa: PLC0415 - most jobs ask nothing live

        return LiveRows(self._context, self._results, self._reporter.goes_live)

    def _set(self, job: Job) -> None:
        """Go on with a job of more shards."""
        if job is not self.job:
            self.job = job
            job.save(self.workspace.local)
            self.workspace.store([JOB_FILE])

    # -- the end -------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, Any]:
        """
        Write the parts, and if the job succeeded its manifest; then remove what is not needed any more.

        :return: a summary.
        :raises BatchFailed: if a batch was rejected, or too many rows have no valid answer.
        """
        self._context.hold(self._clock(), self.cancel)
        manifest = self._results.finish(self.job, self._clock())
        place = self.workspace
        self.submitter.service.note_outputs(place.output if place.is_local else place.uri)
        self._clean_up(self.records)
        self._reporter.completed(manifest, self.job)
        return summary_of(manifest, self.workspace.uri)

    def _clean_up(self, records: Records | None) -> None:
        if records and self.settings.delete_input_files:
            delete_input_files(records, self.submitter, self._log)
        self.workspace.clear()
