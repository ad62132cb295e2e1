"""A job of many shards in a real Airflow: whatever is killed on the way, each row is asked once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
DAG, TASK = "live_inference", "ask"
ROWS, SHARDS = 550, 22
SLOW = 0.3  # seconds that each answer takes, so that there is time to kill


@pytest.fixture
def work(airflow: AirflowStack, service: DevServerClient) -> Path:
    """Some rows fail once, as a busy service has it, and one is refused for good."""
    service.reset()
    work = Path(airflow.environment["LIVE_WORK"])
    with (work / "rows.jsonl").open("w") as lines:
        for number in range(ROWS):
            marker = "fail:429*1" if number % 50 == 3 else "fail:400" if number == 200 else ""
            row = {"key": f"k{number}", "text": f"question {number}", "marker": marker}
            lines.write(json.dumps(row) + "\n")
    return work


def revive(airflow: AirflowStack, run: str, *states: str) -> None:
    """Airflow 3.0 fails a task whose process was killed, whatever its retries: there, somebody clears it."""
    if airflow.wait_for_task(DAG, run, TASK, "failed", *states) == "failed":
        airflow.wait_for_run(DAG, run)
        airflow.clear(DAG, run, TASK)
        airflow.wait_for_task(DAG, run, TASK, *states)


def requests(service: DevServerClient, operation: str) -> int:
    return int(service.stats()["requests"].get(operation, 0))


def test_a_job_whose_processes_are_killed(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    """The task between two submissions, the triggerer while it waits, the task again at a download."""
    service.settings(latency=SLOW, batch_seconds=600)
    run = airflow.trigger(DAG)
    airflow.wait_until(
        lambda: requests(service, "create_batch") >= SHARDS // 3, 150, "some of the shards are submitted"
    )
    airflow.kill_tasks()
    before = requests(service, "create_batch")
    assert before < SHARDS
    revive(airflow, run, "deferred")
    assert airflow.task(DAG, run, TASK)["try_number"] == 2
    assert len(service.batches()) == SHARDS
    airflow.kill("triggerer", signal.SIGKILL)
    airflow.start_component("triggerer")
    airflow.wait_until(airflow.is_healthy, 90, "the triggerer is back")
    service.settings(batch_seconds=1)  # for the next round; these are ended by hand
    for batch in service.batches():
        service.force(batch["id"], status="completed")
    airflow.wait_until(lambda: requests(service, "download_file") >= SHARDS // 3, 150, "some results")
    airflow.kill_tasks()
    revive(airflow, run, "success")
    assert airflow.wait_for_run(DAG, run) == "success"
    check(airflow, service, work / "answers" / run, run)


def check(airflow: AirflowStack, service: DevServerClient, output: Path, run: str) -> None:
    """Each row has one result, in order; nothing was paid twice, and no batch is left running."""
    found = [
        json.loads(line)
        for part in sorted(output.glob("part-*.jsonl"))
        for line in part.read_bytes().splitlines()
    ]
    assert [row["custom_id"] for row in found] == [f"k{number}" for number in range(ROWS)]
    assert {row["custom_id"] for row in found if row["status"] != "succeeded"} == {"k200"}
    assert all(row["output"].endswith(row["text"]) for row in found if row["status"] == "succeeded")
    stats = service.stats()
    assert stats["paid_more_than_once"] == 0
    assert stats["request_lines_paid"] == ROWS - 1
    assert stats["batches"]["running"] == 0
    assert airflow.task(DAG, run, TASK)["try_number"] == 3
    summary = airflow.xcom(DAG, run, TASK)
    assert summary["counts"]["succeeded"] == ROWS - 1
    assert SHARDS < summary["batches_total"] < 2 * SHARDS  # a row is asked again while other batches run
    assert not (output / "_job").exists()
    logs = "".join(airflow.task_log(DAG, run, TASK, number) for number in (1, 2, 3))
    assert " batches done, " in logs
