"""File ids and counts that come after the status: they are waited for before anything is asked again."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support import ENDPOINT, request_lines, run_task

from airflow_provider_openai_batches.api.models import Batch, BatchRequestCounts
from airflow_provider_openai_batches.hooks.openai_batches import SETTLED_AFTER, OpenAIBatchesHook
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

ENDS = ("completed", "expired", "cancelled")


class Looks:
    """The answers to one look after the other; the last one stays."""

    def __init__(self, *answers: Batch) -> None:
        self.hook = OpenAIBatchesHook(sleep=self.pause)
        self.hook.retrieve_batch = self.answer  # type: ignore[assignment, method-assign]
        self.answers, self.paused = list(answers), 0.0

    def pause(self, seconds: float) -> None:
        self.paused += seconds

    def answer(self, _: str) -> Batch:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def settle(self) -> Batch:
        return self.hook.settled(self.answer(""))


def over(status: str, counts: tuple[int, int, int] | None = None, **fields: Any) -> Batch:
    return Batch("batch_1", status, request_counts=counts and BatchRequestCounts(*counts), **fields)


@pytest.mark.parametrize("lagging", [None, (0, 0, 0), (3, 0, 0), (3, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("status", ENDS)
def test_answers_that_are_named_late_are_waited_for(
    status: str, lagging: tuple[int, int, int] | None
) -> None:
    """Whatever the counts say by then."""
    late = over(status, lagging, in_progress_at=1)
    named = over(status, (3, 2, 1), output_file_id="file-1")
    assert Looks(late, late, named).settle() is named


@given(
    st.sampled_from(ENDS),
    st.lists(st.none() | st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=4),
)
def test_no_answer_is_lost_while_nothing_is_named(status: str, counts: list[Any]) -> None:
    """Any counts may stand in the answers before the one that names the output file."""
    late = [over(status, lagging, in_progress_at=1) for lagging in counts]
    assert Looks(*late, over(status, (3, 3, 0), output_file_id="file-1")).settle().output_file_id == "file-1"


@pytest.mark.parametrize(
    "batch",
    [
        over("completed", (3, 3, 0), output_file_id="file-1"),
        over("completed", output_file_id="file-1"),
        over("completed", (3, 0, 3), error_file_id="file-2"),
        over("expired", (3, 0, 0), error_file_id="file-2"),
        over("expired", (3, 1, 0), output_file_id="file-1"),
        over("cancelled", (0, 0, 0)),
        over("failed", (0, 0, 0)),
        over("in_progress", (3, 3, 0)),
    ],
)
def test_what_names_its_files_or_has_none_is_not_waited_for(batch: Batch) -> None:
    """The usual ends cost no look and no second."""
    looks = Looks(batch)
    assert looks.settle() is batch
    assert looks.paused == 0


def test_a_batch_without_files_is_waited_for_once() -> None:
    """A minute at the most, and not again in the same process."""
    looks = Looks(over("completed", completed_at=int(time.time())))
    looks.settle()
    assert looks.paused == 60
    looks.settle()
    assert looks.paused == 60


def test_what_ended_long_ago_names_all_that_it_has() -> None:
    """A later try does not wait for files that will not come."""
    looks = Looks(over("expired", (3, 0, 0), expired_at=int(time.time()) - SETTLED_AFTER - 1))
    looks.settle()
    assert looks.paused == 0


@pytest.mark.parametrize(("counts", "good"), [((3, 0, 0), True), ((3, 0, 2), True), ((3, 0, 3), False)])
def test_counts_that_lag_do_not_make_a_batch_with_answers_a_failed_one(
    counts: tuple[int, int, int], *, good: bool
) -> None:
    """Only if each of its requests has failed there is nothing to use."""
    assert over("completed", counts, output_file_id="file-1").is_good is good


@pytest.mark.parametrize("counts", [None, (0, 0, 0)])
@pytest.mark.parametrize("status", ENDS)
def test_a_job_whose_batch_names_its_files_late_pays_once(
    server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, counts: Any
) -> None:
    """Each row was answered, and is asked once."""
    monkeypatch.setattr("airflow_provider_openai_batches.hooks.openai_batches.SETTLING_PAUSES", (0.01,) * 5)
    operator = OpenAIBatchInferenceOperator(
        task_id="job",
        endpoint=ENDPOINT,
        requests=[json.loads(line) for line in request_lines().splitlines()],
        output_uri=str(tmp_path / "out"),
        poll_interval=0.1,
    )
    retrieve, looks = OpenAIBatchesHook.retrieve_batch, iter(range(9))

    def answer(hook: OpenAIBatchesHook, batch_id: str) -> Batch:
        batch = retrieve(hook, batch_id)
        if not batch.is_over:
            return batch
        if next(looks) < 3:
            late = {"output_file_id": None, "request_counts": counts and BatchRequestCounts(*counts)}
            return replace(batch, status=status, **late)
        return replace(batch, status=status)

    monkeypatch.setattr(OpenAIBatchesHook, "retrieve_batch", answer)
    assert run_task(operator)["counts"]["succeeded"] == 3
    assert server.stats()["batches"]["stored"] == 1
    assert server.stats()["paid_more_than_once"] == 0
