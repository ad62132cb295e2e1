"""The state of one wait, without a network."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting_room import batch

from airflow_provider_openai_batches.exceptions import (
    APIError,
    InvalidConnectionError,
    InvalidInputError,
    TransportError,
)
from airflow_provider_openai_batches.polling.progress import JobProgress, Seen, several
from airflow_provider_openai_batches.polling.wait import REFUSALS, RETURN_WHEN, Wait

T0 = 1_800_000_000.0
HOUR = 3_600.0
PASSING = [
    *(APIError("so", status=status) for status in (400, 405, 408, 409, 422, 500, 502, 503, 504)),
    APIError("slow down", status=429),
    APIError("no money", status=429, code="insufficient_quota"),
    TransportError("GET /batches/batch_1: no answer"),
    TransportError("half a body"),
    TransportError("refused", sent=False),
]


def wait_for(*batch_ids: str, **kwargs: object) -> Wait:
    return Wait(batch_ids or ("batch_1",), **{"poll_interval": 60.0, "now": T0, **kwargs})  # type: ignore[arg-type]


def texts(wait: Wait) -> list[str]:
    found = [line.text for line in wait.lines]
    wait.lines.clear()
    return found


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_any_terminal_status_finishes_the_wait(status: str) -> None:
    """How a batch ended is for the task to judge."""
    wait = wait_for()
    wait.saw(batch(status=status), T0)
    assert wait.payload() == {
        "status": "finished",
        "message": f"batch_1 {status}",
        "batches": {"batch_1": status},
    }


@pytest.mark.parametrize("status", ["validating", "finalizing", "cancelling", "scheduling", "unknown", ""])
def test_any_other_status_is_still_running(status: str) -> None:
    """Compatible servers have statuses of their own."""
    wait = wait_for()
    wait.saw(batch(status=status), T0)
    assert wait.ending is None


def test_a_single_batch_is_told_in_one_line() -> None:
    """Status, requests, failures and an estimate from the pace so far."""
    wait = wait_for()
    wait.saw(batch(counts=(1000, 310, 2), in_progress_at=int(T0 - 380)), T0)
    assert texts(wait) == ["batch_1 in_progress 310/1000 (31%), 2 failed, about 14 min left"]


def test_a_job_is_told_as_a_whole() -> None:
    """What was done before counts, in batches and in requests."""
    job = JobProgress(batches=20, finished=6, total=1_000_000, completed=400_000, failed=4_900, round=1)
    wait = wait_for("a", "b", job=job)
    wait.saw(batch("b", counts=(20_000, 5_000, 100), in_progress_at=int(T0 - 60)), T0)
    texts(wait)
    wait.saw(batch("a", "completed", counts=(20_000, 7_330, 0)), T0)
    words = "7 of 20 batches done, 412,330/1,000,000 requests, 1.2% failed, round 1, about 1 h 54 min left"
    assert texts(wait) == [f"a completed; {words} at this pace, 12 batches have not begun"]


@pytest.mark.parametrize(
    ("batches", "completed", "left"),
    [
        (2, 50, "about 50 s left"),
        (3, 50, "about 50 s left at this pace, 1 batch has not begun"),
        (2, 0, ""),
    ],
)
def test_the_end_is_estimated_of_what_has_begun(batches: int, completed: int, left: str) -> None:
    """Without a pace there is no estimate."""
    job = JobProgress(batches=batches, finished=1, total=200, completed=100)
    wait = wait_for("a", job=job)
    wait.saw(batch("a", counts=(100, 0, 0), in_progress_at=int(T0 - 50)), T0)
    texts(wait)
    seen = Seen.of(batch("a", counts=(100, completed, 0), in_progress_at=int(T0 - 50)), T0)
    assert several([seen], job, T0).partition("requests")[2].removeprefix(", ") == left


def test_what_was_asked_again_or_live_and_is_in_line_is_told() -> None:
    job = JobProgress(batches=2, total=100, again=12, live=3, tokens_in_line=80_000, token_limit=90_000)
    said = several([None, None], job, T0)
    assert said.endswith("12 asked again, 3 answered live, 80,000 of 90,000 tokens in line")


def test_a_change_of_status_is_told_at_once_and_progress_once_a_minute() -> None:
    """Nobody reads ten thousand lines, and nothing is said twice."""
    wait = wait_for()
    for second, completed in enumerate(range(0, 300, 3)):
        wait.saw(batch(counts=(1000, completed, 0)), T0 + second)
    assert texts(wait) == [
        "batch_1 in_progress 0/1000 (0%)",
        "in_progress 180/1000 (18%)",
    ]
    wait.saw(batch(status="finalizing", counts=(1000, 1000, 0)), T0 + 100)
    wait.saw(batch(status="finalizing", counts=(1000, 1000, 0)), T0 + 200)
    assert texts(wait) == ["finalizing 1000/1000 (100%)"]


def test_progress_that_was_held_back_is_told_a_minute_later() -> None:
    """Even if nothing changes any more."""
    wait = wait_for()
    wait.saw(batch(counts=(10, 0, 0)), T0)
    wait.saw(batch(counts=(10, 5, 0)), T0 + 10)
    assert len(texts(wait)) == 1
    wait.saw(batch(counts=(10, 5, 0)), T0 + 70)
    assert texts(wait) == ["in_progress 5/10 (50%)"]


def test_all_completed_waits_for_the_last() -> None:
    """The order does not matter, nor what a late page says of one that is over."""
    wait = wait_for("a", "b")
    wait.saw(batch("b", "failed"), T0)
    wait.saw(batch("b", "in_progress"), T0)
    assert wait.ending is None
    wait.saw(batch("a", "completed"), T0)
    assert wait.payload()["batches"] == {"a": "completed", "b": "failed"}
    assert wait.payload()["message"] == "2 batches: 1 completed, 1 failed"


def test_first_completed_ends_with_any() -> None:
    """Then the job submits more."""
    wait = wait_for("a", "b", return_when="FIRST_COMPLETED")
    wait.saw(batch("a"), T0)
    assert wait.ending is None
    wait.saw(batch("b", "expired"), T0)
    assert wait.payload() == {
        "status": "finished",
        "message": "2 batches: 1 in_progress, 1 expired",
        "batches": {"a": "in_progress", "b": "expired"},
    }


@pytest.mark.parametrize(
    ("return_when", "statuses", "ends"),
    [
        ("ONE_LEFT", ["completed", "in_progress", "in_progress"], False),
        ("ONE_LEFT", ["completed", "in_progress", "failed"], True),
        ("ONE_LEFT", ["in_progress"], False),
        ("FIRST_EXCEPTION", ["completed", "in_progress", "in_progress"], False),
        ("FIRST_EXCEPTION", ["expired", "in_progress", "in_progress"], True),
        ("FIRST_EXCEPTION", ["completed", "in_progress", "completed"], True),
        ("FIRST_EXCEPTION", ["in_progress"], False),
        ("ALL_COMPLETED", ["completed", "in_progress"], False),
    ],
)
def test_what_ends_a_wait_while_a_batch_runs(return_when: str, statuses: list[str], ends: bool) -> None:
    """One that is left ends a wait of a minute or more, because that costs a worker's start."""
    names = [f"b{number}" for number in range(len(statuses))]
    wait = wait_for(*names, return_when=return_when)
    for name, status in zip(names, statuses, strict=True):
        wait.saw(batch(name, status, counts=(5, 5, 0) if status == "completed" else (5, 0, 0)), T0 + 60)
    assert (wait.ending is not None) == ends


@pytest.mark.parametrize("return_when", ["ONE_LEFT", "FIRST_EXCEPTION"])
def test_a_short_wait_does_not_end_for_one_that_is_left(return_when: str) -> None:
    """It ends when it has become a longer one."""
    wait = wait_for("a", "b", return_when=return_when)
    wait.saw(batch("a", "completed", counts=(5, 5, 0)), T0 + 59)
    wait.saw(batch("b"), T0 + 59)
    assert wait.ending is None
    wait.saw(batch("b"), T0 + 61)
    assert wait.ending is not None


def test_no_batches_are_a_pause() -> None:
    """Until the end time, or none at all."""
    wait = Wait((), poll_interval=60, now=T0, end_time=T0 + 10)
    wait.tick(T0 + 9)
    assert wait.ending is None
    wait.tick(T0 + 10)
    assert wait.payload() == {"status": "finished", "message": "The pause is over.", "batches": {}}
    assert Wait((), poll_interval=60, now=T0).ending


def test_the_deadline_says_what_still_runs() -> None:
    """With its status, since when, and how far it is."""
    wait = wait_for("a", "b", "c", end_time=T0 + HOUR)
    wait.saw(batch("a", "completed"), T0)
    wait.saw(batch("b", "finalizing", counts=(10, 8, 2), finalizing_at=1_799_999_000), T0)
    wait.tick(T0 + HOUR)
    assert wait.payload() == {
        "status": "timeout",
        "message": (
            "The deadline 2027-01-15 09:00:00 UTC has passed. Still running: b finalizing since "
            "2027-01-15 07:43:20 UTC (10 of 10 requests done); c, which was never seen."
        ),
        "batches": {"a": "completed", "b": "finalizing", "c": "unknown"},
    }


def test_a_deadline_names_no_more_than_some() -> None:
    """A message of a thousand ids helps nobody."""
    wait = wait_for(*(f"batch_{n}" for n in range(1000)), end_time=T0 + 1)
    wait.tick(T0 + 1)
    assert wait.ending
    assert wait.ending.message.endswith("; and 990 more.")
    assert len(wait.ending.message) < 1_000


@pytest.mark.parametrize(
    ("expires_at", "deadline"), [(int(T0) + 500, T0 + 500 + HOUR), (None, T0 + 25 * HOUR)]
)
def test_without_an_end_time_a_batch_brings_its_own(expires_at: int | None, deadline: float) -> None:
    """Its window and an hour; 25 hours from the beginning if it has none."""
    wait = wait_for()
    assert wait.deadline == T0 + 25 * HOUR
    wait.saw(batch(expires_at=expires_at), T0)
    assert wait.deadline == deadline
    wait.tick(deadline - 1)
    assert wait.ending is None
    wait.tick(deadline)
    assert wait.ending
    assert wait.ending.status == "timeout"


def test_several_batches_wait_for_the_latest_of_their_windows() -> None:
    """And no longer, once the last to expire is over."""
    wait = wait_for("a", "b")
    wait.saw(batch("a", expires_at=int(T0) + 100), T0)
    wait.saw(batch("b", expires_at=int(T0) + 200), T0)
    assert wait.deadline == T0 + 200 + HOUR
    wait.saw(batch("b", "completed", expires_at=int(T0) + 200), T0)
    assert wait.deadline == T0 + 100 + HOUR


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_an_outage_of_hours_is_waited_out_in_few_lines(error: Exception) -> None:
    """The first failure, then at growing intervals, and the recovery."""
    wait = wait_for()
    now = T0
    while now < T0 + 10 * HOUR:
        wait.failed(error, now, "batch_1")
        now += wait.next_in("batch_1", now)
    assert wait.ending is None
    lines = texts(wait)
    assert 5 < len(lines) < 20
    assert lines[0].endswith("asking again until 2027-01-16 09:00:00 UTC")
    wait.saw(batch(), now)
    assert texts(wait)[0] == "The service answers again, after 10 h 1 min"


def test_an_outage_ends_at_the_deadline() -> None:
    """The message says that nothing was seen because nothing answered."""
    wait = wait_for(end_time=T0 + 2 * HOUR)
    wait.failed(PASSING[0], T0)
    wait.tick(T0 + 2 * HOUR)
    assert wait.ending
    assert wait.ending.status == "timeout"
    assert wait.ending.message.endswith("No good answer for 2 h.")


def test_a_service_that_fails_every_other_time_fills_no_log() -> None:
    """A day of hiccups is some lines an hour."""
    wait = wait_for()
    for minute in range(24 * 60):
        if minute % 2:
            wait.failed(PASSING[5], T0 + minute * 60)
        else:
            wait.saw(batch(), T0 + minute * 60)
    assert len(texts(wait)) < 24 * 10


def test_one_batch_that_fails_among_others_fills_no_log() -> None:
    """The others' answers are no recovery of this one."""
    wait = wait_for("a", "b")
    for minute in range(600):
        wait.failed(PASSING[5], T0 + minute * 60, "a")
        wait.saw(batch("b"), T0 + minute * 60)
    assert len([text for text in texts(wait) if "again" in text]) == 1


def test_a_batch_that_is_not_known_twice_ends_the_wait() -> None:
    """A first 404 may be a replica that lags; the second look is soon, but not at once."""
    wait = wait_for()
    error = APIError("No batch found", status=404)
    wait.failed(error, T0, "batch_1")
    assert wait.next_in("batch_1", T0) == 5
    wait.failed(error, T0 + 1, "batch_1")
    assert wait.ending is None
    wait.failed(error, T0 + 5, "batch_1")
    assert wait.payload()["status"] == "error"
    assert "'batch_1'" in wait.payload()["message"]
    assert "Check the id" in wait.payload()["message"]


def test_a_batch_that_comes_back_was_not_missing() -> None:
    """After a 404 and then a good answer, the next 404 counts as the first one again."""
    wait = wait_for()
    for second in (0, 20, 40):
        wait.failed(APIError("No batch found", status=404), T0 + second, "batch_1")
        wait.saw(batch(), T0 + second + 10)
    assert wait.ending is None
    assert wait.next_in("batch_1", T0 + 60) == 60


@pytest.mark.parametrize(
    "error",
    [APIError("wrong key", status=401), APIError("no", status=403), InvalidConnectionError("no connection")],
    ids=str,
)
def test_a_refusal_ends_the_wait_when_it_lasts(error: Exception) -> None:
    """It must last for some polls in a row, to leave time for a key rotation; any answer resets the count."""
    wait = wait_for()
    now = T0
    for _ in range(REFUSALS - 1):
        wait.failed(error, now)
        now += wait.next_in("batch_1", now)
    assert now == T0 + 30 * (REFUSALS - 1)
    assert wait.ending is None
    wait.saw(batch(), now)
    for _ in range(REFUSALS):
        assert wait.ending is None
        wait.failed(error, now)
    assert wait.payload()["status"] == "error"
    assert str(error) in wait.payload()["message"]
    assert len(texts(wait)) == 3


def test_an_id_that_cannot_be_asked_for_ends_the_wait() -> None:
    """Waiting does not mend it."""
    wait = wait_for()
    wait.failed(InvalidInputError("batch_id is 'a/b'"), T0, "batch_1")
    assert wait.payload()["message"] == "batch_id is 'a/b'"


def test_the_interval_grows_with_the_age_of_a_batch() -> None:
    """From the poll interval up to the longest one, at two per cent of the age."""
    wait = wait_for("a", "b", max_poll_interval=600.0)
    wait.saw(batch("a", created_at=int(T0)), T0)
    ages = {0: 60, 1: 72, 4: 288, 24: 600}
    assert {hours: wait.next_in("a", T0 + hours * HOUR) for hours in ages} == ages
    assert wait.next_in("b", T0 + HOUR) == 72
    assert wait_for().next_in("batch_1", T0 + 24 * HOUR) == 60


def test_a_payload_is_there_only_at_the_end() -> None:
    """Before, it is a mistake to ask for it."""
    with pytest.raises(ValueError, match="not ended"):
        wait_for().payload()


EVENTS = st.one_of(
    st.tuples(
        st.just("saw"), st.sampled_from(["a", "b", "c"]), st.sampled_from(["in_progress", "completed", "x"])
    ),
    st.tuples(
        st.just("failed"),
        st.sampled_from(["a", "b", None]),
        st.sampled_from([*PASSING, APIError("?", status=404)]),
    ),
    st.tuples(st.just("tick"), st.none(), st.none()),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 20_000))), st.sampled_from(RETURN_WHEN))
def test_whatever_happens_a_wait_ends_once_and_at_its_deadline(events: list[Any], return_when: str) -> None:
    """No order of answers, failures and times undoes an ending, or makes a wait outlive its deadline."""
    wait = wait_for("a", "b", return_when=return_when, end_time=T0 + 50_000)
    now, ending = T0, None
    for (kind, batch_id, what), passed in events:
        now += passed
        if kind == "saw":
            wait.saw(batch(batch_id, what), now)
        elif kind == "failed":
            wait.failed(what, now, batch_id)
        else:
            wait.tick(now)
        assert ending is None or wait.ending == ending
        ending = wait.ending
        assert all(wait.next_in(batch_id, now) > 0 for batch_id in wait.pending)
    wait.tick(T0 + 50_000)
    assert wait.ending
