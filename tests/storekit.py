"""A store of answers with made-up requests, for tests of it and of its commands."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.answer_store.digests import RowDigests, digest_of
from airflow_provider_openai_batches.answer_store.folder import StoreFolder
from airflow_provider_openai_batches.answer_store.segments import segments_in
from airflow_provider_openai_batches.answer_store.store import AnswerStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.storage import Location

ENDPOINT = "/v1/responses"
LOG = logging.getLogger("answers")


def request(number: int) -> bytes:
    return b'{"input":"question %d"}' % number


def answer(number: int, created: float) -> bytes:
    """An answer that says to which request it is, and of when."""
    return b'{"id":"%d of %d","text":"%s"}' % (number, created, b"long " * (number % 7))


def digest(number: int) -> bytes:
    return digest_of(ENDPOINT, request(number))


def rows_of(numbers: Iterable[int]) -> RowDigests:
    """Rows 0, 1, … that ask these."""
    rows = RowDigests(ENDPOINT)
    for row, number in enumerate(numbers):
        rows.add(row, request(number))
    return rows


def write(
    uri: Location,
    name: str,
    numbers: Iterable[int],
    *,
    created: float = 100.0,
    model: str | None = "gpt-5-mini",
    metadata: Mapping[str, str] | None = None,
) -> None:
    with AnswerStore(uri, LOG).writer(name, created=created, metadata=metadata or {}) as writer:
        for number in numbers:
            writer.add(digest(number), model, answer(number, created))


def find(uri: Location, numbers: Iterable[int], since: float = 0.0) -> dict[int, bytes]:
    """What a store has for rows that ask these; each row comes once."""
    found = list(AnswerStore(uri, LOG).find(rows_of(numbers), since=since))
    assert len(found) == len(dict(found))
    return dict(found)


def segments(uri: Location) -> list[str]:
    return segments_in(StoreFolder(uri).sizes())
