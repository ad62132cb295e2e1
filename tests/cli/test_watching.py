"""The live table of ``watch``, and what it does when the service ails."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from airflow_provider_openai_batches.api.models import Batch, BatchRequestCounts
from airflow_provider_openai_batches.cli.watching import Watch
from airflow_provider_openai_batches.exceptions import APIError, TransportError


class Hook:
    """Gives the next answer of a list, or raises it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def retrieve_batch(self, _: str) -> Batch:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def batch(status: str, completed: int = 0, failed: int = 0) -> Batch:
    counts = BatchRequestCounts(100, completed, failed)
    return Batch(
        id="b1", status=status, created_at=1, request_counts=counts, metadata={"airflow_dag_id": "\x1b[2Jd"}
    )


def watch(hook: Hook, *, terminal: bool = True) -> tuple[Watch, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=140, color_system=None)
    return Watch(hook, [batch("validating")], 9.0, live=True, console=console, sleep=lambda _: None), out


def test_the_table_moves_to_the_end() -> None:
    """Bar, counts and status follow the batch."""
    watching, out = watch(Hook(batch("in_progress", 40, 2), batch("completed", 98, 2)))
    assert [over.status for over in watching.run()] == ["completed"]
    shown = out.getvalue()
    for words in ("validating", "in_progress", "40/100", "98/100", "━", "1 of 1 over"):
        assert words in shown


def test_metadata_does_not_steer_the_terminal() -> None:
    """An escape sequence in a DAG's name is not sent."""
    watching, out = watch(Hook(batch("completed", 100)))
    watching.run()
    assert "\x1b[2Jd" not in out.getvalue()


@pytest.mark.parametrize("error", [TransportError("cut"), APIError("busy", status=503)])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_passing_fault_is_looked_past(error: Exception, terminal: bool) -> None:
    """It is shown, and watching goes on."""
    watching, out = watch(Hook(error, batch("completed", 100)), terminal=terminal)
    assert watching.run()[0].status == "completed"
    assert str(error) in out.getvalue()


def test_what_waiting_cannot_mend_is_raised() -> None:
    """A batch that is gone, or a key that is refused."""
    watching, _ = watch(Hook(APIError("gone", status=404)))
    with pytest.raises(APIError, match="gone"):
        watching.run()


def test_without_a_terminal_only_changes_are_said() -> None:
    """A log file gets a line for each change, and none for no change."""
    watching, out = watch(
        Hook(batch("in_progress", 1), batch("in_progress", 1), batch("completed", 100)), terminal=False
    )
    watching.run()
    assert out.getvalue().splitlines() == [
        "b1 validating 0/100",
        "b1 in_progress 1/100",
        "b1 completed 100/100",
    ]
