"""``execution_timeout`` of deferred tasks in a real Airflow: they end in time, whatever their batches do."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support import ENDPOINT, request_lines

if TYPE_CHECKING:
    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.long, pytest.mark.timeout(900)]
DAG, NO_TRIGGERER = "live_timeouts", "live_no_triggerer"
KEY = "sk-live-test-key-that-must-show-nowhere"
LIMIT = 40.0
# What a busy machine adds to a try at the most: until its trigger runs, and until a worker resumes it.
SLACK = 120.0
RUNNING, CANCELLED = {"validating", "in_progress"}, {"cancelling", "cancelled"}
LEFT = {"create_left", "pieces", "job_left"}


def seconds_of(one_try: dict[str, Any]) -> float:
    """From the start of a try to its end, with all its deferrals."""
    start, end = (datetime.fromisoformat(one_try[name]) for name in ("start_date", "end_date"))
    return (end - start).total_seconds()


class Ended:
    """A run of tasks whose execution_timeout is over, and what became of their batches."""

    def __init__(self, airflow: AirflowStack, service: DevServerClient, dag: str) -> None:
        self.airflow, self.service, self.dag = airflow, service, dag
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=service.base_url, headers=headers, trust_env=False) as http:
            file = http.post("/files", data={"purpose": "batch"}, files={"file": ("f", request_lines())})
            wanted = {"endpoint": ENDPOINT, "completion_window": "24h"}
            answer = http.post("/batches", json={**wanted, "input_file_id": file.json()["id"]})
        self.others = str(answer.raise_for_status().json()["id"])
        self.run = airflow.trigger(dag, {"batch_id": self.others})

    def tries(self, task: str) -> list[dict[str, Any]]:
        path = f"/dags/{self.dag}/dagRuns/{self.run}/taskInstances/{task}/tries"
        found: list[dict[str, Any]] = self.airflow.api("GET", path)["task_instances"]
        return found

    def statuses(self, task: str) -> set[str]:
        names = {"airflow_dag_id": self.dag, "airflow_task_id": task}
        return {batch["status"] for batch in self.service.batches(**names)}

    def log(self, task: str, number: int = 1) -> str:
        path = f"/dags/{self.dag}/dagRuns/{self.run}/taskInstances/{task}/logs/{number}?full_content=true"
        return str(self.airflow.api("GET", path)["content"])


@pytest.fixture(scope="module")
def prepared(airflow: AirflowStack, service: DevServerClient) -> AirflowStack:
    service.reset()
    service.settings(batch_seconds=600)
    (Path(airflow.environment["LIVE_WORK"]) / "timeouts.jsonl").write_bytes(request_lines(prefix="timeouts-"))
    return airflow


@pytest.fixture(scope="module")
def ended(prepared: AirflowStack, service: DevServerClient) -> Ended:
    run = Ended(prepared, service, DAG)
    assert prepared.wait_for_run(DAG, run.run, 600) == "failed"
    return run


@pytest.mark.parametrize("task", ["create", "create_left", "pieces", "job", "job_left", "sensor"])
def test_each_try_has_its_time(ended: Ended, task: str) -> None:
    """It is retried as usual. Each try has all of the time, however often it was deferred, and no more."""
    tries = ended.tries(task)
    assert [one["state"] for one in tries] == ["failed", "failed"]
    took = [seconds_of(one) for one in tries]
    print(f"{task}: {', '.join(f'{seconds:.0f} s' for seconds in took)}")  # noqa: T201 - shown by pytest -s
    assert all(LIMIT - 1 < seconds < LIMIT + SLACK for seconds in took)


@pytest.mark.parametrize("task", ["create", "create_left", "pieces", "job", "job_left"])
def test_what_becomes_of_the_batch(ended: Ended, task: str) -> None:
    """It is cancelled, or left to the next try, as cancel_on_timeout says."""
    statuses = ended.statuses(task)
    assert statuses <= (RUNNING if task in LEFT else CANCELLED), statuses
    assert statuses
    said = "Nothing was cancelled" if task in LEFT else "Cancelled: batch"
    assert all(said in ended.log(task, number) for number in (1, 2))
    if task in LEFT:
        names = {"airflow_dag_id": DAG, "airflow_task_id": task}
        assert len(ended.service.batches(**names)) == 1, "the second try takes it up"


def test_one_was_deferred_several_times(ended: Ended) -> None:
    """In each try; else the first test says little."""
    for number in (1, 2):
        assert ended.log("pieces", number).count("Pausing task as DEFERRED") > 1


def test_a_sensor_cancels_nothing(ended: Ended) -> None:
    (batch,) = (batch for batch in ended.service.batches() if batch["id"] == ended.others)
    assert batch["status"] in RUNNING


def test_where_no_triggerer_runs(prepared: AirflowStack, service: DevServerClient) -> None:
    """Airflow ends the deferral some time later; what becomes of the batch is the same."""
    run = Ended(prepared, service, NO_TRIGGERER)
    for task in ("create", "create_left", "job", "sensor"):
        prepared.wait_for_task(NO_TRIGGERER, run.run, task, "deferred")
    prepared.kill("triggerer", signal.SIGKILL)
    try:
        assert prepared.wait_for_run(NO_TRIGGERER, run.run, 300) == "failed"
    finally:
        prepared.start_component("triggerer")
    prepared.wait_until(prepared.is_healthy, 90, "the triggerer is back")
    for task in ("create", "create_left", "job", "sensor"):
        assert "no triggerer has ended the wait" in run.log(task), task
    assert run.statuses("create") | run.statuses("job") <= CANCELLED
    assert run.statuses("create_left") <= RUNNING
