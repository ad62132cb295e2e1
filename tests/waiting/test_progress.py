"""How long batches have taken and may still take, in words."""

from __future__ import annotations

import pytest
from waiting_room import batch

from airflow_provider_openai_batches.polling.progress import Seen, duration, moment, time_left

NOW = 1_800_000_000.0
HOUR, DAY = 3_600, 86_400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (float("-inf"), "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (12 * 60, "12 min"),
        (HOUR - 31, "59 min"),
        (HOUR - 1, "1 h"),
        (3 * HOUR + 5 * 60, "3 h 5 min"),
        (DAY - 31, "23 h 59 min"),
        (DAY - 1, "1 d"),
        (DAY + 2 * HOUR, "1 d 2 h"),
        (400 * DAY, "400 d"),
        (1e300, "an unknown time"),
        (float("inf"), "an unknown time"),
        (float("nan"), "an unknown time"),
    ],
)
def test_a_duration_has_two_parts_at_most(seconds: float, words: str) -> None:
    """Never "60 s" or "24 h", and never an exception."""
    assert duration(seconds) == words


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan")])
def test_a_time_that_no_calendar_has_is_told_in_seconds(seconds: float) -> None:
    """As a broken service may send it."""
    assert moment(seconds).endswith("s after 1970")


def seen(total: int, completed: int, failed: int, age: int | None, status: str = "in_progress") -> Seen:
    started = None if age is None else int(NOW) - age
    return Seen.of(batch(status=status, counts=(total, completed, failed), in_progress_at=started), NOW)


def test_the_time_left_goes_by_the_pace_so_far() -> None:
    """Failed requests are done too; batches that run together have one pace."""
    one = seen(100, 18, 2, 60)
    assert time_left([one], NOW) == 240
    assert time_left([one, seen(100, 40, 0, 60)], NOW) == 140
    assert time_left([one], NOW, requests=10) == 30


@pytest.mark.parametrize(
    "one",
    [
        seen(100, 0, 0, 60),
        seen(100, 10, 0, None),
        seen(100, 10, 0, 0),
        seen(100, 10, 0, -60),
        seen(100, 100, 0, 60),
        seen(100, 120, 0, 60),
        seen(100, 10, 0, 60, "finalizing"),
    ],
    ids=["nothing done", "no start", "just started", "starts later", "all done", "too many", "not running"],
)
def test_without_a_pace_or_a_rest_no_time_is_left(one: Seen) -> None:
    """No guess is better than a wrong one."""
    assert time_left([one], NOW) is None


def test_what_is_over_is_told_by_the_batch_itself() -> None:
    """A status that is on its way to an end, or unknown, is none."""
    statuses = ("completed", "cancelling", "expired", "in_progress", "x")
    over = [status for status in statuses if seen(0, 0, 0, None, status).is_over]
    assert over == ["completed", "expired"]
