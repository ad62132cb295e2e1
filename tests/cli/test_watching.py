"""The live table of ``watch``, and what it does when the service fails."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from airflow_provider_openai_batches.api.models import Batch, BatchRequestCounts
from airflow_provider_openai_batches.cli.watching import Watch
from airflow_provider_openai_batches.exceptions import APIError, TransportError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook


class Hook(OpenAIBatchesHook):
    """Gives the next answer of a list, or raises it."""

    def __init__(self, *answers: Batch | Exception) -> None:
        super().__init__()
        self.answers = list(answers)

    def retrieve_batch(self, batch_id: str) -> Batch:
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
    """Its bar, counts and status follow the batch."""
    watching, out = watch(Hook(batch("in_progress", 40, 2), batch("completed", 98, 2)))
    assert [over.status for over in watching.run()] == ["completed"]
    shown = out.getvalue()
    for words in ("validating", "in_progress", "40/100", "98/100", "━", "1 of 1 over"):
        assert words in shown


def test_metadata_does_not_control_the_terminal() -> None:
    """An escape sequence in the name of a DAG is not printed."""
    watching, out = watch(Hook(batch("completed", 100)))
    watching.run()
    assert "\x1b[2Jd" not in out.getvalue()


@pytest.mark.parametrize("error", [TransportError("cut"), APIError("busy", status=503)])
@pytest.mark.parametrize("terminal", [True, False])
def test_watching_goes_on_after_a_passing_error(error: Exception, terminal: bool) -> None:
    """The error is shown."""
    watching, out = watch(Hook(error, batch("completed", 100)), terminal=terminal)
    assert watching.run()[0].status == "completed"
    assert str(error) in out.getvalue()


def test_an_error_that_stays_is_raised() -> None:
    """Such as a batch that is gone, or a key that is refused."""
    watching, _ = watch(Hook(APIError("gone", status=404)))
    with pytest.raises(APIError, match="gone"):
        watching.run()


def test_without_a_terminal_only_changes_are_printed() -> None:
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
