"""A job from its rows to its manifest, as far as one process takes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_openai_batches.exceptions import BatchFailed, OpenAIBatchesError
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.inference import landing
from airflow_provider_openai_batches.inference.attempt import Attempt
from airflow_provider_openai_batches.inference.conductor import Conductor
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE, Job
from airflow_provider_openai_batches.inference.data.manifest import check_target
from airflow_provider_openai_batches.inference.records import RECORDS_FILE, Records
from airflow_provider_openai_batches.inference.settings import failure, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.conductor import Wait
    from airflow_provider_openai_batches.inference.data.manifest import Manifest
    from airflow_provider_openai_batches.inference.data.requests import Request
    from airflow_provider_openai_batches.inference.settings import Plan
    from airflow_provider_openai_batches.inference.workspace import Workplace


class Flow:
    """
    Prepares a job or goes on with it, drives its conductor, and lands its results.

    :param since: from which time on the service may have batches of earlier tries; None: there are none.
    """

    def __init__(
        self, plan: Plan, place: Workplace, submitter: Submitter, since: float | None, log: Log
    ) -> None:
        self.plan, self.place, self.submitter = plan, place, submitter
        self._since = since
        self._log = log
        self._conductor: Conductor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.place.close()

    @property
    def conductor(self) -> Conductor:
        if self._conductor is None:
            raise RuntimeError("No job was begun or opened")
        return self._conductor

    def check(self) -> None:
        """Refuse what can be refused before a row is read."""
        self.plan.check()
        check_target(self.place.output)

    def rehearse(self, requests: Iterable[Request]) -> dict[str, Any]:
        """Write the request files, and say how large the job is."""
        job, digest, results = self._write(requests)
        self._check_results(results)
        self.place.keep(digest, _files_of(job))
        self._log.info("A dry run, nothing is sent; rows: %d, files: %d", job.rows, len(job.shards_of(0)))
        return landing.plan_summary(job, str(self.place.output), str(self.place.home))

    def begin(self, requests: Iterable[Request]) -> dict[str, Any] | None:
        """Write the request files; a summary if the results of this very job are there already."""
        job, digest, results = self._write(requests)
        manifest = self._check_results(results)
        anew = not self.plan.reuse
        if manifest is not None and not anew:
            self._log.info("%s holds the results of this very job: nothing is asked", self.place.output)
            self.place.discard()
            self._clean_up_after(digest)
            return landing.summary_of(manifest, str(self.place.output))
        self.place.keep(digest, _files_of(job), anew=anew)
        self._log.info("Rows: %d, batches: %d, bytes: %d", job.rows, len(job.shards), job.bytes)
        self._conduct(self._records(results))
        return None

    def open(self, name: str) -> bool:
        """Go on with the job that another process left; False if its files are gone."""
        if not name or not self.place.open(name):
            return False
        records = Records.load(self.place.home / RECORDS_FILE)
        if records is None:
            return False
        self._conduct(records)
        return True

    def heard(self, statuses: Mapping[str, str]) -> bool:
        """Take what a wait saw of the batches; whether there is no more time."""
        self.conductor.heard(statuses)
        return self.conductor.is_overdue()

    def advance(self) -> Wait | None:
        return self.conductor.advance()

    def progress(self) -> dict[str, int]:
        return landing.progress_of(self.conductor.attempt.job, self.conductor.attempt.records)

    def cancel(self) -> list[str]:
        """Cancel what runs, and say what became of it."""
        ends = []
        for record in self.conductor.attempt.records.active:
            batch_id = str(record.batch_id)
            try:
                ends.append(f"{batch_id} is {self.submitter.service.cancel_batch(batch_id).status}")
            except OpenAIBatchesError as error:
                ends.append(f"{batch_id} is not cancelled and may run on ({error})")
        return ends

    def finish(self) -> dict[str, Any]:
        """
        Write the parts, and if the job is good its manifest; then remove what is not needed any more.

        :raises BatchFailed: if it is not good.
        """
        attempt = self.conductor.attempt
        merged = landing.land(self.plan, self.place, self.conductor.index or landing.read_results(attempt))
        problem = landing.rejections(attempt) or failure(merged.counts, self.plan.fail_on)
        if problem:
            raise BatchFailed(
                f"{problem} What came is in {self.place.output}, without a manifest; another try goes on "
                f"from there.{landing.errors_in_words(merged)}"
            )
        manifest = landing.manifest_of(merged, attempt, time.time())
        manifest.write(self.place.output)
        self.submitter.service.note_outputs(self.place.output)
        self._clean_up(attempt.records)
        self._log.info("%s: %s", self.place.output, in_words(manifest.counts))
        return landing.summary_of(manifest, str(self.place.output))

    def _write(self, requests: Iterable[Request]) -> tuple[Job, str, str]:
        from airflow_provider_openai_batches.inference.data.shards import write_shards  # noqa: PLC0415 - not when resumed

        folder = self.place.begin()
        try:
            job = write_shards(
                requests,
                folder,
                endpoint=self.plan.endpoint,
                limits=self.plan.limits,
                max_requests=self.plan.max_requests,
            )
            return job, *landing.digests(self.plan, job, folder)
        except BaseException:
            self.place.discard()
            raise

    def _check_results(self, digest: str) -> Manifest | None:
        try:
            return check_target(self.place.output, digest, overwrite=self.plan.overwrite)
        except OpenAIBatchesError:
            self.place.discard()
            raise

    def _records(self, digest: str) -> Records:
        now = time.time()
        if not self.plan.reuse:
            return Records(digest=digest, started=now, since=self._since, salt=keys.one_time_key())
        known = Records.load(self.place.home / RECORDS_FILE)
        if known is None:
            return Records(digest=digest, started=now, since=self._since)
        known.digest = digest
        return known.next_try(now, self._since)

    def _conduct(self, records: Records) -> None:
        job = Job.load(self.place.here)
        if job is None:
            raise RuntimeError(f"{self.place.here} holds no job")
        attempt = Attempt(
            plan=self.plan,
            place=self.place,
            job=job,
            records=records,
            submitter=self.submitter,
            log=self._log,
        )
        self._conductor = Conductor(attempt)

    def _clean_up_after(self, digest: str) -> None:
        """An earlier try wrote the manifest, and may have died before it had cleaned up."""
        if self.place.open(self.place.name_of(digest)):
            records = Records.load(self.place.home / RECORDS_FILE)
            self._clean_up(records or Records(digest=digest, started=time.time()))

    def _clean_up(self, records: Records) -> None:
        if self.plan.delete_input_files:
            for record in records.by_shard.values():
                self._delete(record.input_file_id)
        self.place.clear()

    def _delete(self, file_id: str | None) -> None:
        if file_id is None:
            return
        try:
            self.submitter.service.delete_file(file_id)
        except OpenAIBatchesError as error:
            self._log.warning("Input file %s could not be deleted: %s", file_id, error)


def _files_of(job: Job) -> list[str]:
    return [ROWS_FILE, *(name for shard in job.shards for name in (shard.file, shard.ids_file))]
