"""Whether a task that is stopped goes on, by what Airflow answers or does not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from support import FakeTaskInstance

from airflow_provider_openai_batches.compat import task_state
from airflow_provider_openai_batches.idempotency import cancel

if TYPE_CHECKING:
    from collections.abc import Callable


def task(try_number: int = 1, max_tries: int = 0, map_index: int = -1) -> FakeTaskInstance:
    ti = FakeTaskInstance("t", try_number, map_index, "run")
    ti.max_tries = max_tries  # type: ignore[attr-defined]
    return ti


def answer(monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]) -> None:
    monkeypatch.setattr(task_state, "ask", how)


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [
        ("failed", False),
        ("success", False),
        ("skipped", False),
        ("restarting", True),
        ("scheduled", True),
        ("queued", True),
        ("up_for_retry", True),
        ("deferred", True),
        (None, True),
    ],
)
def test_the_state_tells(monkeypatch: pytest.MonkeyPatch, state: str | None, *, goes_on: bool) -> None:
    """Over is over, whatever tries there were; anything else is waited for."""
    answer(monkeypatch, lambda *_: {"t": state})
    assert cancel.goes_on(task(max_tries=3)) is goes_on
    assert cancel.goes_on(task()) is goes_on


def test_a_task_that_was_deleted_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its run."""
    answer(monkeypatch, lambda *_: {})
    assert cancel.goes_on(task(max_tries=3)) is False


def test_a_mapped_task_is_asked_for_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its siblings' states are other tasks'."""
    answer(monkeypatch, lambda *_: {"t": "scheduled", "t_3": "failed", "t_4": "scheduled"})
    assert cancel.goes_on(task(map_index=3)) is False
    assert cancel.goes_on(task(map_index=4)) is True


@pytest.mark.parametrize("tries", [(1, 0, False), (1, 1, True), (2, 1, False), (2, 3, True)])
@pytest.mark.parametrize("known", [True, False])
def test_where_the_state_does_not_tell_the_tries_do(
    monkeypatch: pytest.MonkeyPatch, tries: tuple[int, int, bool], *, known: bool
) -> None:
    """A process that runs, or Airflow does not answer: while a try is left, it will be made."""
    answer(monkeypatch, lambda *_: {"t": "running"} if known else 1 / 0)
    try_number, max_tries, goes_on = tries
    assert cancel.goes_on(task(try_number, max_tries)) is goes_on


def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill may have interrupted a call that holds the lock that asking needs."""
    release = threading.Event()
    monkeypatch.setattr(cancel, "ASK_SECONDS", 0.05)
    answer(monkeypatch, lambda *_: {"t": "failed"} if release.wait(10) else {})
    assert cancel.goes_on(task(max_tries=1)) is True
    release.set()
