"""Which batches are cancelled when a task is stopped: the whole table, and how Airflow is asked."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support import FakeTaskInstance

from airflow_provider_openai_batches.compat import supervisor
from airflow_provider_openai_batches.idempotency.cancel import (
    OVER,
    Standing,
    Stop,
    is_to_be_cancelled,
    standing_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

WAITED_FOR = ["none", "scheduled", "queued", "restarting", "deferred", "up_for_retry", "a state of later"]
CANCELLED: dict[Stop, set[Standing]] = {
    Stop.WITH_TRIES_LEFT: {Standing.OVER},
    Stop.ON_LAST_TRY: {Standing.OVER, Standing.RUNNING, Standing.UNKNOWN},
    Stop.TRIGGER_KILLED: {Standing.OVER, Standing.UNKNOWN},
    Stop.TRIGGER_CANCELLED: {Standing.OVER},
}


@pytest.mark.parametrize(
    ("state", "standing"),
    [
        *((state, Standing.OVER) for state in ("success", "failed", "skipped", "upstream_failed", "removed")),
        *((state, Standing.WAITED_FOR) for state in WAITED_FOR),
        ("running", Standing.RUNNING),
        (None, Standing.UNKNOWN),
    ],
)
@pytest.mark.parametrize("stop", Stop)
def test_every_stop_in_every_state(stop: Stop, state: str | None, standing: Standing) -> None:
    """Nothing that somebody waits for is cancelled, and nothing goes on that nobody waits for."""
    assert standing_of(state) is standing
    assert is_to_be_cancelled(stop, state) is (standing in CANCELLED[stop])


@pytest.mark.parametrize("stop", Stop)
def test_what_is_over_is_always_cancelled_and_what_is_waited_for_never(stop: Stop) -> None:
    """The two rows of the table that must be the same for every stop."""
    assert all(is_to_be_cancelled(stop, state) for state in OVER)
    assert not any(is_to_be_cancelled(stop, state) for state in WAITED_FOR)


def task(map_index: int = -1) -> FakeTaskInstance:
    return FakeTaskInstance("t", 1, map_index, "run")


def answer(monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]) -> None:
    monkeypatch.setattr(supervisor, "ask_for_states", how)


def ask(ti: Any, seconds: float = 2.0) -> tuple[str | None, str | None]:
    """The state of a task as the sync and the async function find it."""
    return supervisor.task_state(ti, seconds), asyncio.run(supervisor.atask_state(ti, seconds))


@pytest.mark.parametrize(
    ("states", "state"),
    [({"t": "failed"}, "failed"), ({"t": None}, "none"), ({}, "removed"), ({"t_1": "queued"}, "removed")],
)
def test_the_state_is_what_airflow_says(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, str | None], state: str
) -> None:
    """A task that was deleted with its run is not in the answer."""
    answer(monkeypatch, lambda *_: states)
    assert ask(task()) == (state, state)


def test_a_mapped_task_is_asked_for_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of the other map indices do not count."""
    answer(monkeypatch, lambda *_: {"t": "scheduled", "t_3": "failed", "t_4": "queued"})
    assert ask(task(map_index=3)) == ("failed", "failed")
    assert ask(task(map_index=4)) == ("queued", "queued")


def test_a_question_that_fails_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's releases differ in what they raise."""
    answer(monkeypatch, lambda *_: 1 / 0)
    assert ask(task()) == (None, None)


def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop may have interrupted a call that holds the lock that asking needs."""
    release = threading.Event()
    answer(monkeypatch, lambda *_: {"t": "failed"} if release.wait(10) else {})
    assert supervisor.task_state(task(), 0.05) is None
    release.set()
