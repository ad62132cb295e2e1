"""Rows that are asked live in a real Airflow: what is killed goes on, and what is stopped ends."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
BY_TIME, AT_ONCE, TASK = "live_answer_by", "live_at_once", "ask"
ROWS = 160
# So many live requests at once, and then one in so many seconds. The slow ones take long enough for a busy
# machine to intervene.
AT_FIRST, SLOW, QUICK = 40, 0.3, 0.1
OVER = {"completed", "failed", "expired", "cancelled"}


def write_rows(airflow: AirflowStack, dag: str, count: int) -> Path:
    """Return the directory of the results of each run."""
    folder = Path(airflow.environment["LIVE_WORK"]) / "late"
    folder.mkdir(exist_ok=True)
    rows = (json.dumps({"key": f"k{number}", "text": f"question {number}"}) for number in range(count))
    (folder / f"{dag}.jsonl").write_text("\n".join(rows))
    return folder / dag


def allow(service: DevServerClient, seconds: float) -> None:
    """Have the service take one live request in so many seconds, and answer it after another one."""
    service.settings(requests_per_minute=AT_FIRST, minute_seconds=AT_FIRST * seconds, live_seconds=1)


def asked(service: DevServerClient) -> int:
    """How many live requests were carried out until now."""
    return int(service.stats()["live"]["executed"])


def written(output: Path) -> list[str]:
    """The rows whose live answers are stored, while the job is under way."""
    lines = [line for path in output.glob("_job/*/live-*.jsonl") for line in path.read_bytes().splitlines()]
    return [json.loads(line)["custom_id"] for line in lines if line.endswith(b"}")]


def revive(airflow: AirflowStack, run: str) -> None:
    """Airflow 3.0 fails a task whose process was killed, whatever its retries: there, somebody clears it."""
    airflow.wait_until(lambda: airflow.task(BY_TIME, run, TASK)["state"] != "running", 60, "the try is over")
    if airflow.task(BY_TIME, run, TASK)["state"] == "failed":
        airflow.wait_for_run(BY_TIME, run)
        airflow.clear(BY_TIME, run, TASK)


def assert_nothing_runs(airflow: AirflowStack, service: DevServerClient) -> None:
    """No process of a task, no batch and no live request."""
    airflow.wait_until(lambda: not airflow.task_processes(), 60, "the task's process has ended")
    airflow.wait_until(lambda: service.stats()["in_flight"] == 0, 60, "no request is under way")
    assert all(batch["status"] in OVER for batch in service.batches())


def test_a_worker_that_is_killed_while_it_asks_live(airflow: AirflowStack, service: DevServerClient) -> None:
    """The time of answer_by passes, and what has no answer is asked live; the next try asks for the rest."""
    output = write_rows(airflow, BY_TIME, ROWS)
    service.reset()
    service.settings(batch_seconds=60, validating_seconds=0.5)
    allow(service, SLOW)
    run = airflow.trigger(BY_TIME)
    output /= run
    airflow.wait_until(lambda: len(written(output)) >= AT_FIRST, 90, "rows are asked live")
    assert {batch["status"] for batch in service.batches()} == {"cancelled"}
    airflow.kill_tasks()
    kept = written(output)
    time.sleep(0.5)  # the service has read all that was sent before
    lost = asked(service) - len(kept)
    assert lost < len(kept) == len(set(kept)) < ROWS
    allow(service, QUICK)
    revive(airflow, run)
    assert airflow.wait_for_run(BY_TIME, run) == "success"
    assert_nothing_runs(airflow, service)
    check(airflow, service, output, run, lost)


def check(airflow: AirflowStack, service: DevServerClient, output: Path, run: str, lost: int) -> None:
    """
    Each row has one result, in order, and no row was paid twice but those that were under way.

    :param lost: how many were under way as the process was killed.
    """
    parts = [path.read_bytes().splitlines() for path in sorted(output.glob("part-*.jsonl"))]
    found = [json.loads(line) for part in parts for line in part]
    assert [row["custom_id"] for row in found] == [f"k{number}" for number in range(ROWS)]
    assert {row["status"] for row in found} == {"succeeded"}
    assert all(row["output"].endswith(f"question {number}") for number, row in enumerate(found))
    stats = service.stats()
    in_batches, live = stats["request_lines_paid"], stats["live"]
    assert stats["paid_more_than_once"] == 0
    assert ROWS <= in_batches + live["paid"] <= ROWS + lost
    print(f"{in_batches} in batches, {live}, {lost} were under way")  # noqa: T201 - shown by pytest -s
    summary = airflow.xcom(BY_TIME, run, TASK)
    assert summary["counts"]["succeeded"] == ROWS
    assert summary["live"]["rows"] == ROWS - in_batches
    assert airflow.task(BY_TIME, run, TASK)["try_number"] == 2
    assert "Pausing task as DEFERRED" in airflow.task_log(BY_TIME, run, TASK)
    assert not (output / "_job").exists()


def test_a_task_that_is_marked_failed_while_it_asks_live(
    airflow: AirflowStack, service: DevServerClient
) -> None:
    """It asks for no more, although nearly all rows are left."""
    output = write_rows(airflow, AT_ONCE, 10 * ROWS)
    service.reset()
    allow(service, SLOW)
    run = airflow.trigger(AT_ONCE)
    airflow.wait_until(lambda: len(written(output / run)) >= AT_FIRST, 90, "rows are asked live")
    airflow.set_task_state(AT_ONCE, run, TASK, "failed")
    assert airflow.wait_for_run(AT_ONCE, run) == "failed"
    assert_nothing_runs(airflow, service)
    kept = written(output / run)
    print(f"{asked(service)} asked, {len(kept)} kept")  # noqa: T201 - shown by pytest -s
    assert AT_FIRST <= asked(service) < 3 * ROWS
    assert service.stats()["live"]["paid_more_than_once"] == 0
    assert f"{len(kept)} of {10 * ROWS:,} rows answered" in airflow.task_log(AT_ONCE, run, TASK)
