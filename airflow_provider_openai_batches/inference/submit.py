"""Gives each shard of a job its batch: one that an earlier try left, or a new one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.models import can_be_cancelled
from airflow_provider_openai_batches.api.retry import is_passing, is_unusable, refuses_all
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.inference.data.job import Shard
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.records import NOT_SUBMITTED
from airflow_provider_openai_batches.inference.transfers import at_once
from airflow_provider_openai_batches.inference.wait_words import held_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.ledger import Ledger
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.shard_record import Record
    from airflow_provider_openai_batches.inference.wait_words import Held

# Of several batches of one shard, a completed one is preferred, then one that runs, then one cut short.
_RANK = {"completed": 3, "cancelling": 1, "expired": 1, "cancelled": 1}
_RUNNING_RANK = 2
_CANCELLED = frozenset({"cancelling", "cancelled"})
# So many follow-ups, and rejected batches of each, are looked for where their files are gone.
MOST_FOLLOW_UPS, MOST_ATTEMPTS = 5_000, 20

# Seconds. Another wait takes about ten, until a worker has the task again.
LOOK_AGAIN_AFTER = 5.0


class Submissions:
    """
    Finds the batches of earlier tries, submits those that are missing, and cancels them.

    Which batch belongs to which shard is noted in the records; ``held`` says why some were not submitted.
    """

    def __init__(self, context: JobContext) -> None:
        self._settings, self._submitter, self._workspace, self._records, self._log = context[:5]
        self._budget, self._purse = context.budget, context.purse
        self._fresh: set[str | None] = set()  # uploaded a moment ago
        self.held: Held = ""
        self._watch(self._records.active)

    def keys(self, job: Job) -> set[str]:
        """Return the keys of all batches that belong to the job."""
        firsts = {self._first_key(job, shard) for shard in job.shards if shard.has_files}
        return firsts | {self._key(job, shard) for shard in job.shards}

    def _key(self, job: Job, shard: Shard) -> str:
        return self._key_of(job, shard.index, shard.sha256 if shard.round == 0 else "")

    def _first_key(self, job: Job, shard: Shard) -> str:
        """Return the key that release 0.1 gave to a shard: that of a follow-up was made of its rows too."""
        return self._key_of(job, shard.index, shard.sha256)

    def _key_of(self, job: Job, index: int, sha256: str = "", attempt: int | None = None) -> str:
        """
        Return the key of a shard's batch, which is derived from what it asks.

        Which rows a follow-up asks again depends on when the batches ended, and a later try that has lost the
        files cannot know it. So its key says only which job it belongs to, and its number.

        :param attempt: how many batches of it were rejected: their keys are not used again.
        """
        attempt = self._records.of(index).attempt if attempt is None else attempt
        suffix = f" {attempt}" if attempt else ""
        asked = sha256 or f"{job.digest} again"
        return self._submitter.key(f"{asked}{self._records.salt}{suffix}", index)

    def find(self, job: Job) -> Job:
        """
        Find the batches that earlier tries made of the job.

        A batch that ended early is used too, because its answers are paid for.

        :return: the job, with the shards of which only the batches are left.
        """
        ledger = self._submitter.ledger
        if ledger is None:
            return job
        self._refresh(job.shards, ledger)
        before = _found(job)
        job = self._match(job, ledger)
        # An earlier try may have died a moment ago, and its last batch may not be listed yet.
        if missing := len(self._records.without_batch(job.shards)):
            self._submitter.announce_search(f"{missing} of {len(job.shards)} request files")
        while self._records.without_batch(job.shards) and ledger.look_again():
            job = self._match(job, ledger)
        job = self._add_found(job, ledger)
        if _found(job) - before:
            # They may have the rows of any shard, which may have been cut: what is left is asked after them.
            for shard in self._records.without_batch(job.shards):
                self._records.give_up(shard.index)
        return job

    def cancel_outdated(self, job: Job) -> None:
        """Cancel all other running batches of earlier tries: their requests are not needed any more."""
        if self._records.since is not None:
            self._submitter.cancel_outdated(self.keys(job))

    def submit(self, job: Job, room: int) -> None:
        """
        Submit shards that have no batch, but nothing more once the service has rejected one.

        :param room: how many may be submitted.
        """
        records = self._records
        self._fresh.clear()  # there may have been a pause, and a file may be gone since
        if not records.rejected:
            waiting = records.without_batch(job.shards)
            fitting = self._budget.fitting(waiting, len(job.shards))
            shards = self._purse.fitting(job, fitting[:room])
            self.held = held_by(waiting, fitting, room, shards)
            for shard in self._uploaded(job, shards):
                self._submit(shard, self._key(job, shard))
                if records.rejected:
                    break
        if records.rejected:
            for shard in records.without_batch(job.shards):
                records.of(shard.index).error = RowError(
                    NOT_SUBMITTED, "Not submitted, because another batch of the job was rejected"
                )

    def is_any_over(self, *, has_taken: float) -> bool:
        """
        Whether a batch has ended whose answers were not collected.

        The last one is looked at once more, where a while has passed.

        :param has_taken: how long ago, in seconds, the last wait ended.
        """
        active = self._records.active
        if len(active) == 1 and has_taken > LOOK_AGAIN_AFTER and not active[0].is_over:
            with suppress(APIError, TransportError):  # then it is waited for
                active[0].status = self._submitter.service.retrieve_batch(str(active[0].batch_id)).status
        return any(record.is_over for record in active)

    def stop_running(self, why: str) -> None:
        """
        Cancel the batches that run, because no batch is waited for any more.

        :param why: for the log.
        """
        for record in self._records.active:
            if not can_be_cancelled(record.status):
                continue
            obstacle: object = "another Airflow may have made it"
            try:
                if record.is_own:
                    self._stop(record, why)
                    continue
            except APIError as error:
                if is_passing(error) or refuses_all(error):
                    raise
                obstacle = error
            self._log.warning("Batch %s is waited for, although %s: %s", record.batch_id, why, obstacle)

    def _stop(self, record: Record, why: str) -> None:
        record.saw(self._submitter.service.cancel_batch(str(record.batch_id)))
        if record.status in _CANCELLED:
            self._records.stopped.add(record.shard)
        self._log.info("Batch %s is %s: %s", record.batch_id, record.status, why)

    def cancel(self) -> list[str]:
        """Cancel the running batches, and say what became of each."""
        ends = []
        for record in self._records.active:
            batch_id = str(record.batch_id)
            if not record.is_own:
                ends.append(f"{batch_id} is left running, because another Airflow may have made it")
                continue
            try:
                ends.append(f"{batch_id} is {self._submitter.service.cancel_batch(batch_id).status}")
            except OpenAIBatchesError as error:
                ends.append(f"{batch_id} is not cancelled and may run on ({error})")
        return ends

    def _watch(self, records: Iterable[Record]) -> None:
        """Note what has to be cancelled if the task is killed."""
        self._submitter.known.update(
            record.batch_id for record in records if record.batch_id and record.is_own
        )

    def _refresh(self, shards: list[Shard], ledger: Ledger) -> None:
        """Bring the records of running batches up to date: they may be old."""
        listed = {batch.id: batch for batch in ledger.batches}
        for shard in shards:
            record = self._records.of(shard.index)
            if record.is_active and record.batch_id in listed:
                self._adopt(shard, listed[record.batch_id])

    def _match(self, job: Job, ledger: Ledger) -> Job:
        """Give the listed batches to their shards; only the input file of a rejected batch is used."""
        listed: dict[str | None, list[Batch]] = {}
        for batch in ledger.batches:
            listed.setdefault(keys.key_of(batch), []).append(batch)
        adopted: set[int] = set()
        for shard in self._records.without_batch(job.shards):
            record = self._records.of(shard.index)
            while found := listed.get(self._key(job, shard)) or listed.get(self._first_key(job, shard)):
                usable = [batch for batch in found if batch.status != "failed"]
                if usable:
                    batch = max(usable, key=lambda one: _worth(one, is_own=self._submitter.is_own(one.id)))
                    self._log.info(
                        "Shard %d: batch %s of an earlier try is %s", shard.index, batch.id, batch.status
                    )
                    self._adopt(shard, batch)
                    if keys.key_of(batch) == self._key(job, shard):
                        adopted.add(shard.index)
                    break
                record.saw(found[0])
                record.release()
        any_row = {"is_found": True, "first_row": 0, "last_row": job.rows - 1}
        shards = [
            msgspec.structs.replace(shard, **any_row) if shard.round and shard.index in adopted else shard
            for shard in job.shards
        ]
        return msgspec.structs.replace(job, shards=shards) if shards != job.shards else job

    def _add_found(self, job: Job, ledger: Ledger) -> Job:
        """Add the follow-ups of earlier tries whose files are gone; what they answered is paid for."""
        mine = {record.batch_id for record in self._records.by_shard.values()}
        others = [batch for batch in ledger.batches if batch.id not in mine and batch.status != "failed"]
        if not others:
            return job
        rejected = sum(batch.status == "failed" for batch in ledger.batches)
        known, last = {shard.index for shard in job.shards}, max(shard.index for shard in job.shards)
        by_key = {keys.key_of(batch): batch for batch in others}
        found = []
        for index in range(len(job.shards_of(0)), last + MOST_FOLLOW_UPS):
            for attempt in range(0 if index in known else min(rejected, MOST_ATTEMPTS) + 1):
                if batch := by_key.get(self._key_of(job, index, attempt=attempt)):
                    self._log.info("Batch %s of an earlier try, a follow-up, is %s", batch.id, batch.status)
                    found.append(
                        Shard(
                            index=index,
                            round=1,
                            model=None,
                            first_row=0,
                            last_row=job.rows - 1,
                            is_found=True,
                        )
                    )
                    self._records.of(index).attempt = attempt
                    self._adopt(found[-1], batch)
        return msgspec.structs.replace(job, shards=[*job.shards, *found]) if found else job

    def _adopt(self, shard: Shard, batch: Batch) -> None:
        record = self._records.of(shard.index)
        record.saw(batch)
        record.is_own = self._submitter.is_own(batch.id)
        if batch.status in _CANCELLED:
            self._records.stopped.add(shard.index)
        if not batch.is_over:
            self._submitter.note_running(batch.id)

    def _uploaded(self, job: Job, shards: list[Shard]) -> Iterator[Shard]:
        """Yield the shards, with the files of the next ones on their way; the first batch goes alone."""
        yield from shards[:1]
        yield from at_once(lambda shard: self._upload(shard, self._key(job, shard)), shards[1:])

    def _upload(self, shard: Shard, key: str) -> Shard:
        """Upload a shard's file ahead of its create; several threads do this at the same time."""
        record = self._records.of(shard.index)
        if not (record.input_file_id or record.uploaded):
            place = self._workspace
            place.fetch([shard.file])
            source, expires_after = place.local / shard.file, self._settings.input_expires_after
            record.uploaded = self._submitter.upload(key, source, expires_after, says_input=shard.round == 0)
            self._fresh.add(record.uploaded)
            place.drop([shard.file])
        return shard

    def _submit(self, shard: Shard, key: str) -> None:
        record = self._records.of(shard.index)
        try:
            batch = self._create(shard, record, key)
        except APIError as error:
            if is_passing(error) or not self._records.has_batches:
                raise
            record.error = RowError(error.code or f"http_{error.status}", str(error))
            self._log.error("Shard %d is refused, nothing more is submitted: %s", shard.index, error)
        else:
            record.saw(batch)

    def _create(self, shard: Shard, record: Record, key: str) -> Batch:
        settings, spec = self._settings, self._settings.spec
        own = keys.with_estimate(spec.metadata, shard.estimated_tokens, shard.model)
        spec = msgspec.structs.replace(spec, metadata=own)
        if known := record.input_file_id or record.uploaded:
            try:
                if record.input_file_id:
                    return self._submitter.submit_file_id(spec, key, known)
                return self._submitter.submit_uploaded(spec, key, known)
            except APIError as error:
                if known in self._fresh or not is_unusable(error):
                    raise
                self._log.info("Input file %s cannot be used any more: %s", known, error)
        place = self._workspace
        place.fetch([shard.file])
        source, expires_after = place.local / shard.file, settings.input_expires_after
        batch = self._submitter.submit_file(spec, key, source, expires_after, says_input=shard.round == 0)
        place.drop([shard.file])
        return batch


def _found(job: Job) -> set[int]:
    return {shard.index for shard in job.shards if shard.is_found}


def delete_input_files(records: Records, submitter: Submitter, log: Log) -> None:
    """Delete the uploaded request files of a complete job; one that cannot be deleted is only logged."""
    for record in records.by_shard.values():
        if record.input_file_id:
            try:
                submitter.service.delete_file(record.input_file_id)
            except OpenAIBatchesError as error:
                log.warning("Input file %s could not be deleted: %s", record.input_file_id, error)


def _worth(batch: Batch, *, is_own: bool) -> tuple[bool, bool, int, int]:
    """Rank a batch among those of one shard; of two whole ones, nobody else waits for the task's own."""
    rank = _RANK.get(batch.status, _RUNNING_RANK)
    return rank >= _RUNNING_RANK, is_own, rank, batch.counts.completed
