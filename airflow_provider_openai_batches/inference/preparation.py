"""Writes the request files of a job, and finds out which rows need not be asked, before anything is sent."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from airflow_provider_openai_batches.answer_store.digests import RowDigests
from airflow_provider_openai_batches.inference.data.doubles import check_keys
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE
from airflow_provider_openai_batches.inference.data.merge import check_output
from airflow_provider_openai_batches.inference.data.partitions import Partitions
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.inference.target import check_folders

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.inference.answers import SharedAnswers
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.inference.data.manifest import Manifest
    from airflow_provider_openai_batches.inference.data.requests import Request
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.settings import Settings
    from airflow_provider_openai_batches.inference.workspace import Workspace


class Written(NamedTuple):
    """
    A job whose request files are written.

    :param digest: of the job; ``results_digest`` is that of the results that it will have.
    :param manifest: of exactly these results, if they are there already.
    :param row_digests: those of the rows' requests, where rows may have an answer already.
    """

    job: Job
    digest: str
    results_digest: str
    manifest: Manifest | None
    row_digests: RowDigests | None


class Preparation:
    """What a job does before anything is sent."""

    def __init__(self, settings: Settings, workspace: Workspace, log: Log) -> None:
        self._settings, self._workspace, self._log = settings, workspace, log

    def write(self, requests: Iterable[Request], now: float, *, is_claimed: bool) -> Written:
        """
        Write the request files; settings and directories are checked before the first row is read.

        :param now: Unix seconds.
        :param is_claimed: whether the output directory is kept from other tasks.
        :raises InvalidInputError: if a setting, a directory or a row cannot be used.
        """
        settings, place = self._settings, self._workspace
        settings.spec.check()
        check_output(settings.output, settings.output_format)
        settings.check_form()
        place.check_writing()
        if answers := self._answers:
            answers.check()
        row_digests = self._row_digests()
        if is_claimed:
            place.take(now, overwrite=settings.overwrite)
        try:
            folder = place.begin()
            job = write_shards(
                requests,
                folder,
                endpoint=settings.spec.endpoint,
                limits=settings.limits,
                max_requests=settings.max_requests,
                canary=settings.canary,
                completed=place.park,
                digests=row_digests,
                deduplicate=settings.deduplicate,
            )
            if settings.partition_by is not None:
                check_folders(place.output, Partitions(folder, settings.partition_by).folders)
            check_keys(folder, settings.key_columns)
            digest, results_digest = digests(settings, job, folder)
            manifest = place.check_target(results_digest, overwrite=settings.overwrite)
        except BaseException:
            place.discard()
            raise
        return Written(job, digest, results_digest, manifest, row_digests)

    def _row_digests(self) -> RowDigests | None:
        if not self._settings.has_source:
            return None
        return RowDigests(self._settings.spec.endpoint)

    @property
    def _answers(self) -> SharedAnswers | None:
        if self._settings.answers_uri is None:
            return None
        from airflow_provider_openai_batches.inference.answers import SharedAnswers  # noqa: PLC0415 - most jobs have no store

        return SharedAnswers(self._settings, self._workspace, self._log)

    def look_up(self, job: Job, wanted: RowDigests | None, records: Records, now: float) -> None:
        """
        Find out which rows the store of answers has, unless an earlier try did.

        :param now: Unix seconds.
        """
        records.stored = self._settings.looked_up(records.stored)
        if wanted is not None and (answers := self._answers):
            answers.prepare(job, wanted, records, now)

    def check_files(self, job: Job, records: Records) -> None:
        """Have the rows asked whose answers from the store are in the job's files no more."""
        if answers := self._answers:
            answers.check_files(job, records)

    def count_stored(self, job: Job, wanted: RowDigests | None, now: float) -> int:
        """
        Return how many rows have an answer in the store; nothing is written.

        :param now: Unix seconds.
        """
        answers = self._answers if self._settings.reuse else None
        return answers.count(job, wanted, now) if answers and wanted is not None else 0


def digests(settings: Settings, job: Job, folder: Path) -> tuple[str, str]:
    """
    Return a digest of the job (its requests, ids and kept columns) and one of the results that it will have.

    :param folder: the directory with the job's files.
    """
    with (folder / ROWS_FILE).open("rb") as rows:
        asked = f"{job.digest} {hashlib.file_digest(rows, 'sha256').hexdigest()}"
    given = f"{asked} {settings.output} {settings.output_format} {settings.schema is not None}"
    if settings.has_source:
        given += " source"
    if settings.typed_output:
        kind = settings.schema and settings.schema.output_type
        given += f" typed {msgspec.json.encode(kind).decode()}"
    if settings.partition_by is not None:
        given += f" by {settings.partition_by}"
    return hashlib.sha256(asked.encode()).hexdigest(), hashlib.sha256(given.encode()).hexdigest()
