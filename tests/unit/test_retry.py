"""The one retry policy: what is repeated, how long it waits, when it stops."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api import retry
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG = logging.getLogger("test")


def run(
    errors: Sequence[OpenAIBatchesError], operation: str = "retrieve_batch", attempts: int = 6
) -> tuple[str, list[float]]:
    """Raise these errors one after the other, then succeed; the result and the waits."""
    waits: list[float] = []
    queue = list(errors)

    def call() -> str:
        if queue:
            raise queue.pop(0)
        return "done"

    retrying = tenacity.Retrying(sleep=waits.append, **retry.policy(operation, attempts, LOG))
    return retrying(call), waits


def test_passing_faults_are_waited_out() -> None:
    """Five faults in a row are one success."""
    result, waits = run([APIError("x", status=503)] * 5)
    assert result == "done"
    assert len(waits) == 5


def test_it_stops_at_max_attempts() -> None:
    """The last error is the one that is raised."""
    with pytest.raises(APIError, match="the third"):
        run([APIError("x", status=503)] * 2 + [APIError("the third", status=503)], attempts=3)


def test_what_cannot_be_mended_is_raised_at_once() -> None:
    """A 404 is not asked for twice."""
    with pytest.raises(APIError, match="gone"):
        run([APIError("gone", status=404)])


@given(st.integers(1, 5))
def test_waits_grow_and_are_capped(number: int) -> None:
    """Half a second, doubled each time, up to half a minute, and jitter."""
    _, waits = run([TransportError("x")] * number)
    for index, seconds in enumerate(waits):
        assert min(30.0, 0.5 * 2**index) <= seconds <= min(30.0, 0.5 * 2**index) + 0.5


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (100_000.0, retry.MAX_RETRY_AFTER)])
def test_retry_after_is_obeyed_and_capped(asked: float, waited: float) -> None:
    """As long as the service asks, but not for ever."""
    _, waits = run([APIError("x", status=429, retry_after=asked)])
    assert waits == [waited]


def test_each_retry_is_logged_with_reason_and_wait(caplog: pytest.LogCaptureFixture) -> None:
    """A reader of the log can see why the call took longer."""
    with caplog.at_level("WARNING"):
        run([APIError("overloaded", status=503, retry_after=9)])
    assert (
        "retrieve_batch: attempt 1 of 6 failed (HTTP 503: overloaded); the next one in 9.0 s" in caplog.text
    )


@pytest.mark.parametrize("code", sorted(retry.NO_MONEY))
@pytest.mark.parametrize("status", [None, 402, 403, 429, 500])
def test_no_money_is_no_money_for_operations_and_rows(code: str, status: int | None) -> None:
    """Both ask the same list: no code is repeated in one place and not in the other."""
    assert retry.row_verdict(code, status) is retry.Verdict.NEVER
    assert status is None or not retry.is_passing(APIError("x", status=status, code=code))


@pytest.mark.parametrize(
    ("code", "status", "is_repeated"),
    [
        ("error", None, True),
        ("invalid_request", None, False),
        ("server_error", 200, True),
        ("content_policy", 200, False),
        ("x", 400, False),
        ("x", 404, False),
        ("x", 408, True),
        ("x", 409, True),
        ("x", 429, True),
        ("x", 500, True),
        ("x", 503, True),
    ],
)
def test_rows(code: str, status: int | None, *, is_repeated: bool) -> None:
    """What passes for an operation passes for a row."""
    verdict = retry.row_verdict(code, status)
    assert verdict is (retry.Verdict.REPEAT if is_repeated else retry.Verdict.NEVER)
