"""The store as jobs use it: check, find, write."""

from __future__ import annotations

import math
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.answer_store import segments
from airflow_provider_openai_batches.answer_store.folder import StoreFolder
from airflow_provider_openai_batches.answer_store.lookup import Lookup
from airflow_provider_openai_batches.answer_store.segments import AnswerGroup
from airflow_provider_openai_batches.answer_store.writing import SegmentsWriter
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.storage import is_bare_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_openai_batches.answer_store.digests import RowDigests
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.storage import Location

_NAME_LENGTH = 128


class AnswerWriter:
    """Writes the answers of one job; :meth:`AnswerStore.writer` makes it."""

    def __init__(self, target: SegmentsWriter, created: float, metadata: Mapping[str, str]) -> None:
        self._target, self._created = target, created
        self._metadata = tuple(sorted(metadata.items()))
        self._groups: dict[str | None, AnswerGroup] = {}

    def add(self, digest: bytes, model: str | None, body: bytes) -> None:
        """
        Write one answer.

        :param digest: what :func:`~.digests.digest_of` says of its request.
        :param body: the answer, JSON on one line. One that is longer than 64 MB is left out.
        """
        group = self._groups.get(model)
        if group is None:
            group = self._groups[model] = AnswerGroup(model, self._created, self._metadata)
        self._target.add(digest, group, body)


class AnswerStore:
    """
    A directory of answers that jobs share. A disk or an object store that fails in any method is an
    :class:`InvalidInputError` with the failure as its cause.

    :param uri: a path or URI; a directory is made when the first answers are written.
    """

    def __init__(self, uri: Location, log: Log) -> None:
        self._folder, self._log = StoreFolder(uri), log
        self.broken: list[str] = []  # names of segments, as find saw them
        self.answers = 0  # in the segments that find could read

    def check(self) -> None:
        """
        Write a file, read it, list it and delete it, before anything is spent.

        :raises InvalidInputError: naming ``answers_uri``, if one of these is not possible.
        """
        self._folder.check(f".probe-{uuid.uuid4().hex}")

    def find(self, wanted: RowDigests, *, since: float = 0.0) -> Iterator[tuple[int, bytes]]:
        """
        Yield the rows that have an answer, and the answer as one line of JSON; each row once, in any order.

        Of several answers it is the newest one. Segments that are broken are logged, named in ``broken``, and
        skipped.

        :param since: answers that were stored earlier (Unix seconds) are not used.
        """
        lookup = Lookup(self._folder, wanted, since=since, log=self._log)
        self.broken, self.answers = lookup.broken, 0
        try:
            yield from lookup.run()
        finally:
            self.answers = lookup.answers

    @contextmanager
    def writer(self, name: str, *, created: float, metadata: Mapping[str, str]) -> Iterator[AnswerWriter]:
        """
        Yield a writer; what one with the same name wrote before is deleted when this one is done.

        If the block ends with an error, the segments that were full by then stay, and so do the earlier ones.

        :param created: the time of the answers, in Unix seconds.
        :param metadata: by which answers can be forgotten, such as a team.
        """
        if not is_bare_name(name) or len(name.encode()) > _NAME_LENGTH or not math.isfinite(created):
            raise InvalidInputError(f"Segments of answers cannot be written as {name!r} of {created}")
        earlier = [
            segment
            for segment in segments.segments_in(self._folder.sizes())
            if segments.writer_of(segment) == name
        ]
        with SegmentsWriter(self._folder, name) as target:
            yield AnswerWriter(target, created, metadata)
        for segment in earlier:
            segments.delete(self._folder, segment)
