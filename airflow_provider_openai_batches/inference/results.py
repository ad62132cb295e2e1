"""Downloads and reads the results of a job's batches, writes them out, and sums them up for XCom."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.validation import result_file_name
from airflow_provider_openai_batches.exceptions import (
    AnswersLate,
    APIError,
    BatchFailed,
    CostLimitReached,
    OpenAIBatchesError,
)
from airflow_provider_openai_batches.inference.claim import names_of
from airflow_provider_openai_batches.inference.data.findings import Findings, Scanner
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import JOB_FILE, ROWS_FILE, read_runs
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, BatchRecord, Manifest
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.outcomes import TOO_LATE, RowError
from airflow_provider_openai_batches.inference.data.spending import usage_in
from airflow_provider_openai_batches.inference.data.stored import add_stored, settled_rows
from airflow_provider_openai_batches.inference.in_line import LIMIT_EXCEEDED
from airflow_provider_openai_batches.inference.live_files import add_live
from airflow_provider_openai_batches.inference.shard_record import UNKNOWN
from airflow_provider_openai_batches.inference.summary import (
    errors_in_words,
    failure,
    in_words,
    rejection_of,
    sources_in_words,
)
from airflow_provider_openai_batches.inference.target import TRY
from airflow_provider_openai_batches.inference.transfers import at_once
from airflow_provider_openai_batches.inference.workspace import files_of
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.storage import write_json

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.usage import Usage
    from airflow_provider_openai_batches.inference.data.job import Cut, Job, Shard
    from airflow_provider_openai_batches.inference.data.manifest import Merged
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.shard_record import Record

_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


class JobResults:
    """
    Downloads what the batches answered, says what must be asked again, and writes the rest into parts.

    ``counts`` has the number of rows by status once they are written.
    """

    def __init__(self, context: JobContext) -> None:
        self._settings, self._submitter, self._workspace, self._records, self._log = context[:5]
        self._budget, self._purse = context.budget, context.purse
        self._limits_before: dict[str, int] = {}  # what was known when a collection began
        self.counts: dict[str, int] = {}
        self._answered: bytearray | None = None  # 1 for each row that needs not be asked

    def collect(self, job: Job, now: float) -> bool:
        """
        Download the results of all batches that have ended, and note what they hold.

        :param now: Unix seconds.
        :return: whether one was rejected because of the enqueued-token limit although it seemed to fit; each
            that was rejected for it is submitted again.
        """
        limited, self._limits_before = False, dict(self._records.token_limits)
        over = [record for record in self._records.active if record.is_over]
        for record, (batch, names) in zip(over, at_once(self._fetch, over), strict=True):
            limited |= self._take(job, record, batch, names, now)
        return limited

    def _fetch(self, record: Record) -> tuple[Batch, list[str]]:
        """Download the result files of a batch; several threads do this at the same time."""
        service = self._submitter.service
        batch = service.settled(service.retrieve_batch(str(record.batch_id)))
        files = {"output": batch.output_file_id, "errors": batch.error_file_id}
        is_wanted = batch.is_over and batch.status != "failed"
        wanted = [(kind, file_id) for kind, file_id in files.items() if file_id and is_wanted]
        return batch, [self._download(batch, file_id, kind) for kind, file_id in wanted]

    def index(self, job: Job) -> ResultIndex:
        """Return where each row's result is, in the batches that have ended."""
        place, records = self._workspace, self._records
        place.fetch(shard.ids_file for shard in job.shards if shard.has_files)
        index = ResultIndex(job, place.local, retry_invalid=self._settings.retry_schema, copies=place)
        for shard in job.shards:
            record = records.of(shard.index)
            if record.error is not None:
                index.reject(shard, record.error)
            elif record.files is not None:
                files = [place.local / name for name in record.files]
                findings = self._findings(job, shard, record.files)
                index.take(shard, files, findings, counts=shard.index not in records.stopped)
        if records.has_live:
            add_live(index, place)
        if stored := self._settings.looked_up(records.stored):
            add_stored(index, stored)
        if records.is_late:
            index.nothing = TOO_LATE
        return index

    def is_partly_answered(self, job: Job, shard: Shard) -> bool:
        """Whether rows of a shard repeat others, or have an answer from a store."""
        stored = self._settings.looked_up(self._records.stored)
        if not (job.repeats or (stored and stored.rows)):
            return False
        place = self._workspace
        if self._answered is None:
            self._answered = settled_rows(ResultIndex(job, place.local, copies=place), stored)
        place.fetch([shard.ids_file])
        marks = self._answered
        return any(
            any(marks[row : row + (1 if isinstance(given, str) else given)])
            for row, given in read_runs(place.local, shard)
        )

    def follow_up(self, job: Job, cut: Cut | None) -> Job:
        """
        Put the rows that are to be asked again now into new shards; the same job if there are none.

        :param cut: how to cut them where the enqueued-token limit is small.
        """
        from airflow_provider_openai_batches.inference.data.followup import write_followup  # noqa: PLC0415 - most jobs have one round

        after = write_followup(
            self.index(job), self._settings.max_rounds, cut, completed=self._workspace.park
        )
        if after is not job:
            self._workspace.store([*files_of(after.shards[len(job.shards) :]), JOB_FILE])
        return after

    def _findings(self, job: Job, shard: Shard, names: list[str]) -> Findings:
        """Return what the result files of a batch hold; they are read only once."""
        place, name = self._workspace, shard.findings_file
        if not names:
            return Findings.none(has_checked=self._settings.retry_schema is not None)
        if place.has(name):
            place.fetch([name])
            findings = Findings.load(place.local / name)
            place.drop([name])
            if findings is not None and findings.has_checked == (self._settings.retry_schema is not None):
                return findings
        originals = job.shards_of(0) if shard.is_found else [shard]
        place.fetch([*names, *(each.ids_file for each in originals)])
        scanner = Scanner(job, place.local, retry_invalid=self._settings.retry_schema)
        findings = scanner.scan(shard, [place.local / each for each in names])
        findings.save(place.local / name)
        place.store([name])
        place.drop([name, *names])
        return findings

    def finish(self, job: Job, now: float) -> Manifest:
        """
        Write the parts, and if the job succeeded its manifest.

        :param now: Unix seconds.
        :raises BatchFailed: if a batch was rejected, or too many rows have no valid answer.
        """
        settings, place = self._settings, self._workspace
        place.fetch([ROWS_FILE])
        index = self.index(job)
        reusable = None if settings.answers_uri is None else bytearray(job.rows)
        merged = merge(
            index,
            place.output,
            output=settings.output,
            schema=settings.schema,
            output_format=settings.output_format,
            prices=settings.prices,
            has_source=settings.has_source,
            typed_output=settings.typed_output,
            partition_by=settings.partition_by,
            reusable=reusable,
        )
        self.counts = merged.counts
        if reusable is not None:
            self._share(index, reusable, now)
        problem = rejection_of(self._records, job) or failure(merged.counts, settings.fail_on)
        self._log.info("Cost: %s", merged.cost)
        ends = {
            AnswersLate: self._late(merged),
            CostLimitReached: self._unpaid(job, merged, index.unfinished),
            BatchFailed: problem,
        }
        for kind, why in ends.items():
            if why:
                raise kind(
                    f"{why} The results so far are in {place.output}, without a manifest; another "
                    f"try continues from there.{errors_in_words(merged)}"
                )
        manifest = self._manifest(job, merged, now)
        write_json(place.output / MANIFEST_FILE, manifest)
        self._log.info("%s: %s", place.output, in_words(manifest.counts))
        if manifest.sources is not None:
            self._log.info("%s", sources_in_words(manifest.sources))
        if live := manifest.live:
            said = live.rows, live.usage.total_tokens, live.times_batch_price
            self._log.info("Live: %d rows, %d tokens, at about %g times the price of a batch", *said)
        return manifest

    def _share(self, index: ResultIndex, reusable: bytearray, now: float) -> None:
        """Give the answers to the requests of this job to the store that it shares with others."""
        from airflow_provider_openai_batches.inference.answers import SharedAnswers  # noqa: PLC0415 - most jobs have no store

        answers = SharedAnswers(self._settings, self._workspace, self._log)
        answers.keep(index, reusable, self._submitter.task.task_key, self._records.digest, now)

    def _late(self, merged: Merged) -> str | None:
        """Say how many rows have no answer by the time of answer_by, where that is a failure."""
        lost = sum(merged.counts[status] for status in ("expired", "cancelled", "missing"))
        if self._settings.then != "fail" or not self._records.is_late or not lost:
            return None
        return f"{lost:,} of {sum(merged.counts.values()):,} rows had no answer by the time of answer_by."

    def _unpaid(self, job: Job, merged: Merged, left: int) -> str | None:
        """Say how many rows were not asked because of max_cost."""
        if not self._purse.is_empty:
            return None
        limit = f"max_cost={self._settings.max_cost:g}"
        spent = f"{merged.cost} were spent, and {left:,} of {job.rows:,} rows are left"
        if not self._purse.is_known(job):
            return (
                f"Nobody can tell what the rest would cost, and {limit} needs to know it: {spent}. Give each "
                "model a price in the connection's field prices, and the body a bound; then clear the task: "
                "nothing is paid twice."
            )
        return (
            f"The rest would pass {limit}: {spent}. Clear the task with a higher max_cost: nothing is paid "
            "twice."
        )

    def _manifest(self, job: Job, merged: Merged, now: float) -> Manifest:
        records, stored = self._records, self._settings.looked_up(self._records.stored)
        times = {"started": records.first_started or records.started, "finished": now}
        return Manifest(
            digest=records.digest,
            endpoint=self._settings.spec.endpoint,
            output_format=self._settings.output_format,
            rows=job.rows,
            made_by={**names_of(self._submitter.task), TRY: str(self._settings.try_number)},
            batches=[_described(shard, record) for shard, record in records.submitted(job)],
            times={name: datetime.fromtimestamp(moment, UTC).isoformat() for name, moment in times.items()},
            answers_broken=None if stored is None else stored.broken,
            **msgspec.structs.asdict(merged),
        )

    def _take(self, job: Job, record: Record, batch: Batch, names: list[str], now: float) -> bool:
        record.saw(batch)
        if not batch.is_over:
            return False
        self._submitter.known.discard(batch.id)
        metrics.batch_over(batch, self._settings.prices)
        shard = next(each for each in job.shards if each.index == record.shard)
        if batch.status == "failed":
            return self._note_rejection(shard, record, batch)
        unfinished = self._findings(job, shard, names).unfinished(shard.requests)
        record.unfinished = (
            UNKNOWN if shard.is_found else unfinished
        )  # its batch may have other rows than its file
        record.files = names
        if not (record.total or shard.is_found):  # the service does not count
            record.total, record.completed = shard.requests, shard.requests - unfinished
        if record.usage is None and record.may_cost and self._settings.max_cost is not None:
            record.usage = self._usage_in(names)
        record.ended(batch, now)
        self._log.info(
            "Shard %d: batch %s is %s, %d of %d requests were answered",
            record.shard,
            batch.id,
            batch.status,
            record.completed,
            record.total,
        )
        self._records.recover()
        return False

    def _usage_in(self, names: list[str]) -> Usage | None:
        """Add up the tokens of a batch's answers, where the service does not."""
        place = self._workspace
        place.fetch(names)
        usage = usage_in([place.local / name for name in names], spec_of(self._settings.spec.endpoint))
        place.drop(names)
        return usage

    def _download(self, batch: Batch, file_id: str, kind: str) -> str:
        place, name = self._workspace, result_file_name(batch.id, kind)
        if place.has(name):  # a file that is there is complete
            return name
        try:
            self._submitter.service.download_file(file_id, place.local / name)
        except APIError as error:
            if error.status not in _GONE:
                raise
            raise OpenAIBatchesError(
                f"Batch {batch.id} is {batch.status}, but its {kind} file {file_id} is gone from the service "
                f"({error}): it was deleted, or it expired. If you have a copy, save it as "
                f"{place.kept / name} and clear the task. Without one, reuse=False asks for every row, "
                "and pays for it, again."
            ) from error
        place.store([name])
        place.drop([name])
        return name

    def _note_rejection(self, shard: Shard, record: Record, batch: Batch) -> bool:
        items = batch.error_items
        if shard.is_found:  # which rows it had is not known, but all of them are still open
            self._log.info("Batch %s, a follow-up, was rejected; its rows are asked in another one", batch.id)
            self._records.give_up(shard.index)
            return False
        if limited := [item for item in items if item.code == LIMIT_EXCEEDED]:
            self._log.info("Shard %d waits: %s", record.shard, limited[0])
            record.release()
            is_named = self._budget.learn(shard.model, limited[0].message or "")
            known = self._limits_before.get(shard.model or "")
            return not is_named or known == self._budget.limit(shard.model)
        code = (items and items[0].code) or "batch_failed"
        said = "; ".join(map(str, items[:3])) or "the service gives no reason"
        record.error = RowError(code, f"Batch {batch.id} was rejected: {said}")
        self._log.error(
            "Shard %d: batch %s was rejected, none of its requests ran: %s. Nothing more is submitted; the "
            "task waits for the batches that run, and then fails",
            record.shard,
            batch.id,
            said,
        )
        return False


def _described(shard: Shard, record: Record) -> BatchRecord:
    return BatchRecord(
        shard=shard.index,
        round=shard.said_round,
        batch_id=str(record.batch_id),
        status=record.status,
        counts={"total": record.total, "completed": record.completed, "failed": record.failed},
    )
