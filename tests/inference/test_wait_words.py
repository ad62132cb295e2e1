"""Every reason that the wait of a job can have, and what is said of it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_openai_batches.api.models import Batch
from airflow_provider_openai_batches.exceptions import TransportError
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.idempotency.submit import BatchSpec
from airflow_provider_openai_batches.inference.budget import Budget
from airflow_provider_openai_batches.inference.data.job import Job, Limits, Shard
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.records import CREATIONS_AN_HOUR, NOT_SUBMITTED, Records
from airflow_provider_openai_batches.inference.schedule import Schedule, WaitFor
from airflow_provider_openai_batches.inference.settings import Settings
from airflow_provider_openai_batches.inference.shard_record import Record
from airflow_provider_openai_batches.inference.wait_words import (
    Held,
    Waiting,
    held_by,
    in_words,
    waiting_of,
)

NOW = 1_800_000_000.0
AT_NOW, SOON = "2027-01-15 08:00:00 UTC", "2027-01-15 08:05:00 UTC"
WORDS: dict[str, tuple[dict[str, Any], str]] = {
    "one batch": ({"batches": 1, "running": 1}, "1 batch runs"),
    "all": ({"batches": 12, "running": 12}, "12 batches run"),
    "the last ones": ({"batches": 1_200, "running": 3}, "3 of 1,200 batches run"),
    "the last one": ({"batches": 12, "running": 1}, "1 of 12 batches runs"),
    "some wait": (
        {"batches": 12, "running": 9, "waiting": 3, "held": "9 run, and max_active_batches is 9"},
        "3 of 12 batches wait: 9 run, and max_active_batches is 9",
    ),
    "one waits alone": (
        {"batches": 1, "running": 0, "waiting": 1, "held": f"a rejected batch is sent again at {SOON}"},
        f"1 batch waits: a rejected batch is sent again at {SOON}",
    ),
    "rows are asked again": (
        {"batches": 13, "running": 1, "again": 17, "round": 2},
        "1 of 13 batches runs; 17 rows are asked again, round 2",
    ),
    "one row is asked again": (
        {"batches": 2, "running": 1, "again": 1, "round": 1},
        "1 of 2 batches runs; 1 row is asked again, round 1",
    ),
    "rows are about to be asked again": (
        {"batches": 2, "running": 1, "open_rows": 1_017, "ripe_at": NOW + 300},
        f"1 of 2 batches runs; up to 1,017 rows are asked again at {SOON}",
    ),
    "nobody knows how many": (
        {"batches": 2, "running": 1, "ripe_at": NOW + 300},
        f"1 of 2 batches runs; rows without an answer are asked again at {SOON}",
    ),
    "a rejected batch": (
        {"batches": 3, "running": 2, "rejected": 1},
        "2 of 3 batches run; 1 of 3 batches was rejected, and the task fails when the others have ended",
    ),
    "a deadline, then live": (
        {"batches": 3, "running": 3, "answer_time": NOW},
        f"3 batches run; the deadline is at {AT_NOW}, then the rest is asked live",
    ),
    "a deadline, then fail": (
        {"batches": 3, "running": 3, "answer_time": NOW, "then": "fail"},
        f"3 batches run; the deadline is at {AT_NOW}, then the task fails if rows have no answer",
    ),
    "a deadline, then keep": (
        {"batches": 3, "running": 3, "answer_time": NOW, "then": "keep"},
        f"3 batches run; the deadline is at {AT_NOW}, then rows without an answer get none",
    ),
    "a deadline that is over": (
        {"batches": 3, "running": 2, "answer_time": NOW, "why_due": "the time of answer_by is up"},
        "2 of 3 batches have still to end: the time of answer_by is up",
    ),
    "earlier batches of what is asked live": (
        {"batches": 3, "running": 1, "why_due": "its rows are asked live"},
        "1 of 3 batches has still to end: its rows are asked live",
    ),
    "the service": (
        {"batches": 3, "running": 3, "trouble": "HTTP 503: away", "next_try": NOW + 300},
        f"the service is not available; the next try is at {SOON} (HTTP 503: away)",
    ),
    "the service at the deadline": (
        {"batches": 3, "running": 3, "why_due": "late", "trouble": "x" * 999, "next_try": NOW},
        f"the service is not available; the next try is at {AT_NOW} ({'x' * 200})",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_what_is_said(case: str) -> None:
    known, words = WORDS[case]
    assert in_words(Waiting(**known)) == words


# Why nothing more may be submitted: waiting, fitting, room, submitted.
HELD: list[tuple[int, int, int, int, Held]] = [
    (3, 3, 3, 3, ""),
    (3, 2, 3, 2, "tokens"),
    (3, 3, 2, 2, "room"),
    (3, 3, 0, 0, "room"),
    (3, 2, 1, 1, "room"),
    (3, 3, 3, 1, "cost"),
    (3, 2, 3, 1, "cost"),
    (3, 0, 3, 0, "tokens"),
]


@pytest.mark.parametrize(("waiting", "fitting", "room", "submitted", "held"), HELD)
def test_what_counts(waiting: int, fitting: int, room: int, submitted: int, held: Held) -> None:
    """The narrowest of the limits is named."""
    each = [shard(number) for number in range(waiting)]
    assert held_by(each, each[:fitting], room, each[:submitted]) == held


def shard(index: int, **fields: Any) -> Shard:
    given = {"round": 0, "model": "m", "first_row": index, "last_row": index, "requests": 1}
    return Shard(**{"index": index, "bytes": 400, "estimated_tokens": 100, "sha256": "s", **given, **fields})


def running(number: int, status: str = "in_progress", **fields: Any) -> Record:
    return Record(number, batch_id=f"batch-{number}", status=status, created_at=NOW - 60, **fields)


class Listed:
    """A service that has these batches."""

    def __init__(self, *batches: Batch) -> None:
        self._batches = batches

    def iter_batches_since(self, since: float) -> tuple[Batch, ...]:
        return self._batches


def listed(task: str, status: str) -> Batch:
    metadata = {keys.KEY: f"{task}-1", keys.TOKENS: "100 m"}
    return Batch(f"batch-{task}", status, created_at=int(NOW) - 60, completed_at=int(NOW), metadata=metadata)


def said(
    records: Records, held: Held, *batches: Batch, shards: list[Shard] | None = None, **settings: Any
) -> str:
    """What is said of a job of four shards, some of which have a batch."""
    given = Settings(spec=BatchSpec(endpoint="/v1/responses"), poll_interval=60.0, **settings)
    service: Any = Listed(*batches)
    budget = Budget(given, service, records, "me")
    shards = shards or [shard(number) for number in range(4)]
    job = Job(digest="d", endpoint="/v1/responses", rows=4, limits=Limits(), shards=shards)
    budget.look(job.shards, NOW)
    schedule = Schedule(given, records, budget, logging.getLogger("test"), lambda: NOW)
    context: Any = SimpleNamespace(settings=given, records=records, budget=budget)
    wait = WaitFor([str(record.batch_id) for record in records.active], None, "FIRST_COMPLETED")
    return in_words(waiting_of(context, job, schedule, held, wait))


def records(*known: Record, **fields: Any) -> Records:
    return Records(digest="", started=NOW - 600, by_shard={each.shard: each for each in known}, **fields)


LIMIT: dict[str, Any] = {"max_enqueued_tokens": 200}
REASONS: dict[str, tuple[Records, Held, dict[str, Any], str]] = {
    "as many as were allowed": (
        records(running(0), running(1)),
        "room",
        {"max_active_batches": 2},
        "2 of 4 batches wait: 2 run, and max_active_batches is 2",
    ),
    "as many as the service took": (
        records(running(0), active_limit=1),
        "room",
        {},
        "3 of 4 batches wait: 1 run, and the service took no more: its limit of tokens in line is full",
    ),
    "as many as an hour has room for": (
        records(
            running(0),
            *(
                Record(n, batch_id="b", files=[], unfinished=0, created_at=NOW - 3_300)
                for n in range(4, 4 + CREATIONS_AN_HOUR)
            ),
        ),
        "room",
        {},
        f"3 of 4 batches wait: 1,900 were created within an hour; the next one is sent at {SOON}",
    ),
    "a pause after a rejection": (
        records(Record(0, attempt=1), not_before=NOW + 300),
        "room",
        {},
        f"4 batches wait: a rejected batch is sent again at {SOON}",
    ),
    "a pause for another reason": (
        records(running(0), not_before=NOW + 300),
        "room",
        {},
        f"3 of 4 batches wait: the next one is sent at {SOON}",
    ),
    "the end of the try": (
        records(running(0)),
        "room",
        {"must_end": NOW},
        f"3 of 4 batches wait: nothing is sent after {AT_NOW}, when this try has to end",
    ),
    "the limit of the account": (
        records(running(0), running(1)),
        "tokens",
        LIMIT,
        "2 of 4 batches wait: the account's limit of 200 tokens is full",
    ),
    "the first batch": (
        records(running(0, "validating")),
        "tokens",
        LIMIT,
        "3 of 4 batches wait: the first one goes alone, to see what else is in line",
    ),
    "a limit that nobody knows": (
        records(running(0, "validating"), running(1, "validating")),
        "tokens",
        {},
        (
            "2 of 4 batches wait: the service has to take the others first, because its limit of tokens in "
            "line is not known"
        ),
    ),
    "the money": (
        records(running(0)),
        "cost",
        {"max_cost": 2.5},
        "3 of 4 batches wait: they may cost more than what is left of max_cost=2.5",
    ),
    "a batch that was refused": (
        records(
            running(0),
            Record(1, error=RowError("bad", "")),
            *(Record(n, error=RowError(NOT_SUBMITTED, "")) for n in (2, 3)),
        ),
        "",
        {},
        "1 of 4 batches runs; 1 of 4 batches was rejected, and the task fails when the others have ended",
    ),
    "what batches left open": (
        records(
            running(0),
            *(
                running(n, "completed", files=[], unfinished=2, ended_at=NOW + 240.0, completed=1)
                for n in (1, 2, 3)
            ),
        ),
        "",
        {},
        f"1 of 4 batches runs; up to 6 rows are asked again at {SOON}",
    ),
    "what is left open for good": (
        records(
            running(0), *(running(n, "completed", files=[], unfinished=2, ended_at=NOW) for n in (1, 2, 3))
        ),
        "",
        {"max_rounds": 0},
        "1 of 4 batches runs",
    ),
    "a deadline": (
        records(*map(running, range(4))),
        "",
        {"answer_by": 900.0, "then": "keep"},
        f"4 batches run; the deadline is at {SOON}, then rows without an answer get none",
    ),
    "the deadline": (
        records(*map(running, range(4))),
        "",
        {"answer_by": 300.0},
        "4 batches have still to end: the time of answer_by is up",
    ),
    "batches of a job that is asked live now": (
        records(running(0), Record(1, files=[]), Record(2, files=[]), Record(3, files=[])),
        "",
        {"mode": "live"},
        "1 batch has still to end: its rows are asked live",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_why_a_job_waits(case: str) -> None:
    known, held, settings, words = REASONS[case]
    assert said(known, held, **settings) == words


@pytest.mark.parametrize(("others", "words"), [(1, "1 other task"), (2, "2 other tasks")])
def test_a_limit_that_is_shared(others: int, words: str) -> None:
    """Others wait for room, so none takes more than its share."""
    batches = [listed(f"other{number}", "completed") for number in range(others)]
    found = said(records(running(0)), "tokens", *batches, **LIMIT)
    assert found == (
        f"3 of 4 batches wait: the account's limit of 200 tokens is shared with {words} that wait for room, "
        "or are in line"
    )


def test_rows_that_are_asked_again() -> None:
    shards = [shard(0), shard(1, round=1, requests=5), shard(2, round=2, requests=1)]
    known = records(running(0, files=[], unfinished=0), running(1), running(2))
    assert said(known, "", shards=shards) == "2 of 3 batches run; 6 rows are asked again, round 2"


def test_a_service_that_fails() -> None:
    """It is forgotten as soon as the service answers."""
    known, given = records(running(0)), Settings(spec=BatchSpec(endpoint="/v1/responses"))
    service: Any = Listed()
    log = logging.getLogger("test")
    schedule = Schedule(given, known, Budget(given, service, known, "me"), log, lambda: NOW)
    job = Job(digest="d", endpoint="/v1/responses", rows=1, limits=Limits(), shards=[shard(0)])
    wait = schedule.wait_for_the_service(TransportError("no route"), job)
    context: Any = SimpleNamespace(settings=given, records=known, budget=None)
    words = in_words(waiting_of(context, job, schedule, "", wait))
    assert words == "the service is not available; the next try is at 2027-01-15 08:01:00 UTC (no route)"
