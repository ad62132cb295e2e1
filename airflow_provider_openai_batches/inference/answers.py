"""The store of answers that a job shares with others: what it has is not asked, and new answers go there."""

from __future__ import annotations

import hashlib
import secrets
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.answer_store.store import AnswerStore
from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.outcomes import SUCCEEDED
from airflow_provider_openai_batches.inference.data.repeats import Repeats, read_repeats
from airflow_provider_openai_batches.inference.data.results import AnswerReader
from airflow_provider_openai_batches.inference.data.reusable import reusable_answers
from airflow_provider_openai_batches.inference.data.stored import (
    StoredAnswers,
    StoredWriter,
    has_all,
    line_of,
)
from airflow_provider_openai_batches.inference.records import RECORDS_FILE
from airflow_provider_openai_batches.inference.workspace import SPARE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.answer_store.digests import RowDigests
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.inference.workspace import Workspace


class SharedAnswers:
    """What a job does with its store of answers."""

    def __init__(self, settings: Settings, workspace: Workspace, log: Log) -> None:
        self._settings, self._workspace, self._log = settings, workspace, log
        self._uri = str(settings.answers_uri)

    @cached_property
    def _store(self) -> AnswerStore:
        return AnswerStore(self._settings.answers_uri, self._log)

    def check(self) -> None:
        """
        Make sure that the store can be used, before anything is spent.

        :raises InvalidInputError: if it is no path or URI, or cannot be listed, read or written.
        """
        self._store.check()

    def prepare(self, job: Job, wanted: RowDigests, records: Records, now: float) -> None:
        """
        Look up which rows the store has, unless an earlier try did and its files are there.

        :param now: Unix seconds.
        """
        place, known = self._workspace, records.stored
        if self._settings.reuse and (known is None or not self._still_has(job, known)):
            records.stored = self.look_up(job, wanted, now)
            records.save(place.local)
            place.store([RECORDS_FILE])

    def check_files(self, job: Job, records: Records) -> None:
        """Have the rows asked whose answers are in the job's files no more."""
        found = self._settings.looked_up(records.stored)
        if found is not None and not self._still_has(job, found):
            records.lose_stored()

    def look_up(self, job: Job, wanted: RowDigests, now: float) -> StoredAnswers:
        """
        Put the answers that the store has for the rows of a job into files of the job.

        :param now: Unix seconds.
        """
        place = self._workspace
        place.fetch(shard.ids_file for shard in job.shards_of(0))
        token = secrets.token_hex(4)
        ended = None if place.is_local else self._put_away
        writer = StoredWriter(job, place.local, token, ended=ended, most_bytes=SPARE_BYTES)
        for row, line in self._found(job, wanted, now):
            writer.add(row, line)
        files, broken = writer.end(), len(self._store.broken)
        said = f"; {broken} broken segments of it were skipped" if broken else ""
        self._log.info("%s has answers to %d of %d rows%s", self._uri, writer.rows, job.rows, said)
        return StoredAnswers(
            uri=self._uri,
            max_age=self._settings.answers_max_age,
            token=token,
            files=files,
            rows=writer.rows,
            broken=broken,
        )

    def _still_has(self, job: Job, stored: StoredAnswers) -> bool:
        """Return whether what was found is still in the job's files."""
        place = self._workspace
        names = (name for part in job.live_parts() for name in stored.names(part))
        is_whole = all(map(place.has, names)) and has_all(ResultIndex(job, place.local, copies=place), stored)
        if not is_whole:
            self._log.warning("The job's files with answers from %s are gone or damaged", stored.uri)
        return is_whole

    def count(self, job: Job, wanted: RowDigests, now: float) -> int:
        """Return how many rows of a job need not be asked, because the store has their answers."""
        return sum(1 for _ in self._found(job, wanted, now))

    def _put_away(self, name: str) -> None:
        self._workspace.store([name])
        self._workspace.drop([name])

    def _found(self, job: Job, wanted: RowDigests, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield row and line of each answer that is valid for this job; none for rows that repeat others."""
        settings, repeats = self._settings, Repeats(read_repeats(self._workspace.local, job), job.rows)
        spec = spec_of(job.endpoint)
        reader = AnswerReader(spec, settings.output, settings.schema)
        since = 0.0 if settings.answers_max_age is None else now - settings.answers_max_age
        for row, body in self._store.find(wanted, since=since):
            if repeats.first_of(row) != row:
                continue
            line = line_of(row, body)
            try:
                answer = reader.read_line(line, answered=not spec.can_fail_inside)
            except (ValueError, msgspec.MsgspecError, RecursionError):
                continue
            if answer.outcome is SUCCEEDED and answer.finish_reason is None:
                yield row, line

    def keep(self, index: ResultIndex, reusable: bytearray, task_key: str, digest: str, now: float) -> None:
        """
        Give the answers of some rows to the store. What it has already stays as it is.

        The segment's name says which rows of which task they are, so that a task which does this once more,
        because it died, replaces what it wrote, and nothing else.

        :param task_key: of the job's task; ``digest`` is that of the results.
        :param now: Unix seconds.
        """
        count = sum(reusable)
        if not count:
            return
        name = hashlib.sha256(f"{task_key} {digest} ".encode() + reusable).hexdigest()[:40]
        metadata = self._settings.spec.metadata or {}
        try:
            with self._store.writer(name, created=now, metadata=metadata) as writer:
                for answer in reusable_answers(index, reusable):
                    writer.add(*answer)
        except Exception as error:  # noqa: BLE001 - every store raises its own
            self._log.error(
                "The %d new answers could not be written to %s: %s. The results of the job are complete; a "
                "later job will ask, and pay, for the same requests again",
                count,
                self._uri,
                error,
            )
        else:
            self._log.info("%s has %d more answers", self._uri, count)
