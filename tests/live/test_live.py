"""The main job in a real Airflow: scheduler, triggerer, worker and API server, each a process."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow import __version__ as airflow_version
from packaging import version
from support import request_lines

if TYPE_CHECKING:
    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
DAG = "live_one_batch"
HAS_OWN_FIELDS = version.parse(airflow_version) >= version.parse("3.2")
KEY = "sk-live-test-key-that-must-show-nowhere"


@pytest.fixture
def work(airflow: AirflowStack, service: DevServerClient) -> Path:
    work = Path(airflow.environment["LIVE_WORK"])
    service.reset()
    (work / "requests.jsonl").write_bytes(request_lines(20, prefix="live-"))
    return work


def test_a_deferred_wait_succeeds_and_its_log_tells_of_it(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    """From a file to results; the progress is in the task's log, the link in its XCom."""
    service.settings(batch_seconds=120)
    run = airflow.trigger(DAG)
    airflow.wait_for_task(DAG, run, "batch", "deferred")
    batch_id = airflow.xcom(DAG, run, "batch", "batch_id")
    assert service.batches()[0]["id"] == batch_id
    airflow.wait_until(
        lambda: "in_progress" in airflow.task_log(DAG, run, "batch"), 60, "progress in the log"
    )
    service.force(batch_id, status="completed")
    assert airflow.wait_for_run(DAG, run) == "success"
    log = airflow.task_log(DAG, run, "batch")
    assert "20 of 20 requests succeeded" in log
    results = work / "results" / f"{batch_id}-output.jsonl"
    assert len(results.read_bytes().splitlines()) == 20
    requests = service.stats()["requests"]
    assert (requests["upload_file"], requests["create_batch"]) == (1, 1)


def test_a_triggerer_that_dies_costs_nothing(
    airflow: AirflowStack, service: DevServerClient, work: Path
) -> None:
    """Killed and started again: nothing is cancelled, and the wait goes on to its end."""
    service.settings(batch_seconds=600)
    run = airflow.trigger(DAG)
    airflow.wait_for_task(DAG, run, "batch", "deferred")
    for number in (signal.SIGTERM, signal.SIGKILL):
        airflow.kill("triggerer", number)
        airflow.start_component("triggerer")
        airflow.wait_until(airflow.is_healthy, 90, "the triggerer is back")
    assert "cancel_batch" not in service.stats()["requests"]
    (batch,) = service.batches()
    service.force(batch["id"], status="completed")
    assert airflow.wait_for_run(DAG, run) == "success"
    assert service.stats()["batches"]["stored"] == 1


def test_the_key_is_nowhere(airflow: AirflowStack, work: Path) -> None:
    """Not in the metadata database, not in a log, not in what the tasks wrote."""
    database = airflow.home / "airflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (stored,) = connection.execute("select password from connection").fetchone()
    assert stored
    assert KEY not in stored
    searched = [path for path in work.rglob("*") if path.is_file()]
    assert len(searched) > 10
    found = [path for path in searched if KEY.encode() in path.read_bytes()]
    assert found == []


def test_the_connection_form_shows_its_own_fields(airflow: AirflowStack) -> None:
    """As the UI asks for it: from Airflow 3.2 on with the API key as password, and the extra fields."""
    forms = airflow.api("GET", "/connections/hook_meta", prefix="/ui")
    (form,) = (form for form in forms if form["connection_type"] == "openai_batches")
    assert form["hook_name"] == "OpenAI Batches"
    if not HAS_OWN_FIELDS:
        return
    assert form["standard_fields"]["password"]["title"] == "API key"
    assert form["standard_fields"]["host"]["title"] == "Base URL"
    assert {"organization", "project", "timeout", "allow_http"} <= set(form["extra_fields"])
