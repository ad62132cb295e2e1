"""File ids and counts that come after the status: they are waited for before anything is asked again."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support import ENDPOINT, request_lines, run_task, task_context, until

from airflow_provider_openai_batches.api.models import Batch, BatchRequestCounts
from airflow_provider_openai_batches.hooks.openai_batches import SETTLED_AFTER, OpenAIBatchesHook
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_many_batches_without_files_are_waited_for_together() -> None:
    """A killed job of a hundred batches would otherwise hold its worker for a hundred minutes."""
    looks, ended = Looks(over("cancelled")), int(time.time()) - 10
    none = over("cancelled", (3, 0, 0), in_progress_at=1, cancelled_at=ended)
    for number in range(100):
        looks.answers = [replace(none, id=f"batch_{number}")]
        assert looks.settle().output_file_id is None
    assert looks.paused == 60
    late = replace(none, id="late")
    looks.answers = [late, replace(late, output_file_id="file-1")]
    assert looks.settle().output_file_id == "file-1", "one look is taken"
    assert looks.paused == 60
    looks.answers = [replace(none, id="new", cancelled_at=int(time.time()) + 5)]
    looks.settle()
    assert looks.paused == 120, "it was not over yet during the wait in vain"


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


def wait_for_one(folder: Path) -> OpenAICreateBatchOperator:
    (folder / "in.jsonl").write_bytes(request_lines())
    return OpenAICreateBatchOperator(
        task_id="t", endpoint=ENDPOINT, input_file=str(folder / "in.jsonl"), poll_interval=0.1
    )


def deferred_wait(folder: Path) -> str:
    return str(run_task(wait_for_one(folder))["output_file_id"])


def later_try(folder: Path) -> str:
    batch_id = submitted(folder)
    result = run_task(wait_for_one(folder), task_context(wait_for_one(folder), try_number=2))
    assert result["id"] == batch_id
    return str(result["output_file_id"])


def sensor(folder: Path, **mode: Any) -> str:
    return str(run_task(OpenAIBatchSensor(task_id="t", batch_id=submitted(folder), **mode))["output_file_id"])


def poking_sensor(folder: Path) -> str:
    return sensor(folder, deferrable=False, poke_interval=0.1)


def download(folder: Path) -> str:
    operator = OpenAIDownloadBatchResultsOperator(
        task_id="t", batch_id=submitted(folder), output_uri=str(folder)
    )
    return str(run_task(operator)["output"]["uri"])


def submitted(folder: Path) -> str:
    """A batch that is completed, and does not name its files yet."""
    operator = wait_for_one(folder)
    operator.wait_for_completion = False
    batch_id = run_task(operator)["id"]
    until(lambda: OpenAIBatchesHook().retrieve_batch(batch_id).is_over)
    return str(batch_id)


@pytest.mark.parametrize("way", [deferred_wait, later_try, sensor, poking_sensor, download])
def test_every_way_to_a_result_waits_for_its_files(
    server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Path], str]
) -> None:
    """The ids come a while after the status."""
    monkeypatch.setattr("airflow_provider_openai_batches.hooks.openai_batches.SETTLING_PAUSES", (0.1,) * 50)
    server.settings(output_id_lag_seconds=0.5, batch_seconds=0.1)
    assert way(tmp_path).replace(str(tmp_path), "").startswith(("file-", "/batch_"))
