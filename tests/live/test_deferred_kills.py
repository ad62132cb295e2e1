"""What happens to the batch of a deferred task when somebody intervenes, in a real Airflow."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import request_lines

if TYPE_CHECKING:
    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]
DAG, OVERDUE = "live_kills", "live_overdue"
RUNNING = {"validating", "in_progress", "finalizing"}
CANCELLED = {"cancelling", "cancelled"}
# From the user's click to the cancelled batch.
WITHIN = 10.0
# After this many looks of the second trigger, the first one has done all that it does when it ends.
ROUNDS = 3
NAMES = ("done", "failed", "success", "cleared", "deleted", "outage", "restart")


class Waits:
    """One run for each test, all of them deferred; a batch is known by its run."""

    def __init__(self, airflow: AirflowStack, service: DevServerClient) -> None:
        self.airflow, self.service = airflow, service
        airflow.trigger(OVERDUE, run_id="overdue")
        for name in NAMES:
            airflow.trigger(DAG, run_id=name)
        for name in NAMES:
            airflow.wait_for_task(DAG, name, "batch", "deferred")
        for name in NAMES:
            airflow.wait_until(partial(self.is_started, name), 60, f"the trigger of {name}")

    def is_started(self, run: str, try_number: int = 1) -> bool:
        return "starting" in self.log(run, try_number)

    def log(self, run: str, try_number: int = 1) -> str:
        return self.airflow.task_log(DAG, run, "batch", try_number)

    def looks(self) -> int:
        """How many requests the waits have sent; one list request can serve all of them."""
        made = self.service.stats()["requests"]
        return int(made.get("retrieve_batch", 0) + made.get("list_batches", 0))

    def batches(self, run: str) -> list[dict[str, Any]]:
        """Newest first."""
        return [batch for batch in self.service.batches() if batch["metadata"]["airflow_run_id"] == run]

    def statuses(self, run: str) -> list[str]:
        return [batch["status"] for batch in self.batches(run)]

    def is_cancelled(self, run: str) -> bool:
        return set(self.statuses(run)) <= CANCELLED

    def is_cancelled_soon(self, run: str) -> bool:
        begin = time.monotonic()
        self.airflow.wait_until(lambda: self.is_cancelled(run), WITHIN, f"the batch of {run} is cancelled")
        print(f"{run}: cancelled after {time.monotonic() - begin:.1f} s")  # noqa: T201 - shown by pytest -s
        return True


@pytest.fixture(scope="module")
def waits(airflow: AirflowStack, service: DevServerClient) -> Waits:
    service.reset()
    service.settings(batch_seconds=600)
    (Path(airflow.environment["LIVE_WORK"]) / "kills.jsonl").write_bytes(request_lines(5, prefix="kills-"))
    return Waits(airflow, service)


def test_what_nobody_kills_completes(waits: Waits) -> None:
    """The batch ends, and the task with it."""
    waits.service.force(waits.batches("done")[0]["id"], status="completed")
    assert waits.airflow.wait_for_run(DAG, "done") == "success"


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_task_that_is_marked(waits: Waits, state: str) -> None:
    """Nobody waits for its batch any more: it is cancelled."""
    waits.airflow.set_task_state(DAG, state, "batch", state)
    assert waits.is_cancelled_soon(state)


def test_a_run_that_is_deleted(waits: Waits) -> None:
    """Its batch is cancelled too. Airflow does not delete a running run, so it is marked first."""
    waits.airflow.api("PATCH", f"/dags/{DAG}/dagRuns/deleted", json={"state": "failed"})
    waits.airflow.api("DELETE", f"/dags/{DAG}/dagRuns/deleted")
    assert waits.is_cancelled_soon("deleted")


def test_a_cancel_that_fails_at_first(waits: Waits) -> None:
    """It is tried again, though the triggerer cancels the trigger again each second."""
    waits.service.faults([{"operation": "cancel_batch", "action": "status", "status": 503, "times": 2}])
    waits.airflow.set_task_state(DAG, "outage", "batch", "failed")
    assert waits.is_cancelled_soon("outage")


def test_a_task_that_is_cleared(waits: Waits) -> None:
    """Its next try takes up the running batch, or creates one if the old one was cancelled."""
    waits.airflow.clear(DAG, "cleared", "batch")
    airflow = waits.airflow
    airflow.wait_until(lambda: airflow.task(DAG, "cleared", "batch")["try_number"] == 2, 60, "a second try")
    airflow.wait_for_task(DAG, "cleared", "batch", "deferred", "failed")
    airflow.wait_until(lambda: waits.is_started("cleared", 2), 60, "its second trigger")
    looks = waits.looks()
    airflow.wait_until(lambda: waits.looks() >= looks + ROUNDS, 60, "some more looks")
    assert airflow.task(DAG, "cleared", "batch")["state"] == "deferred"
    running = [status for status in waits.statuses("cleared") if status in RUNNING]
    assert len(running) == 1
    print(f"cleared: {waits.statuses('cleared')}")  # noqa: T201 - shown by pytest -s
    waits.service.force(waits.batches("cleared")[0]["id"], status="completed")
    assert airflow.wait_for_run(DAG, "cleared") == "success"


def test_a_run_that_is_overdue(waits: Waits) -> None:
    """With ``dagrun_timeout``: the batches of all its mapped tasks are cancelled."""
    assert waits.airflow.wait_for_run(OVERDUE, "overdue") == "failed"
    assert len(waits.batches("overdue")) == 3
    assert waits.is_cancelled_soon("overdue")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_triggerer_that_ends(waits: Waits, number: signal.Signals) -> None:
    """However the triggerer ends, nothing is cancelled, and the next one goes on waiting."""
    cancels = waits.service.stats()["requests"].get("cancel_batch", 0)
    waits.airflow.kill("triggerer", number)
    waits.airflow.start_component("triggerer")
    looks = waits.looks()
    waits.airflow.wait_until(lambda: waits.looks() > looks, 90, "the batch is waited for again")
    (status,) = waits.statuses("restart")
    assert status in RUNNING
    assert waits.service.stats()["requests"].get("cancel_batch", 0) == cancels


def test_after_the_triggerers_the_wait_ends_well(waits: Waits) -> None:
    """One batch, one try."""
    waits.service.force(waits.batches("restart")[0]["id"], status="completed")
    assert waits.airflow.wait_for_run(DAG, "restart") == "success"
    assert waits.airflow.task(DAG, "restart", "batch")["try_number"] == 1
    assert len(waits.batches("restart")) == 1
