"""A real Airflow whose traces go to a collector: a job's span is below that of its task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import airflow
import pytest
from airflow_stack import AirflowStack
from tracekit import Collector, Got

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]
DAGS = Path(__file__).parent / "dags"
KEY = "sk-live-test-key-that-must-show-nowhere"
DAG, TASK = "live_inference", "ask"
ROWS = 60


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(
    service: DevServerClient, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    """An Airflow of its own, with a file of rows of which some fail once."""
    home = tmp_path_factory.mktemp("traced") / "airflow"
    with (home.parent / "rows.jsonl").open("w") as lines:
        for number in range(ROWS):
            marker = "fail:429*1" if number == 3 else ""
            lines.write(json.dumps({"key": f"k{number}", "text": "question", "marker": marker}) + "\n")
    connection = {"conn_type": "openai_batches", "host": service.base_url, "password": KEY}
    environment = {
        "LIVE_WORK": str(home.parent),
        "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT": json.dumps(connection),
        **collector.environment,
    }
    with AirflowStack(home, DAGS, environment) as stack:
        yield stack


@pytest.mark.long
def test_a_job_that_is_deferred(traced: AirflowStack, service: DevServerClient, collector: Collector) -> None:
    """Twice: it asks a row again. Its span ends in another process than it began."""
    service.reset()
    service.settings(batch_seconds=4)
    run = traced.trigger(DAG)
    assert traced.wait_for_run(DAG, run) == "success"
    (job,) = collector.named("invoke_workflow")
    assert job.parent_id
    if not airflow.__version__.startswith("3.0."):  # which tells of the task's span, and does not send it
        traced.wait_until(lambda: bool(_of_task(collector)), 60, "the task's span is sent")
        task = _of_task(collector)[0]
        assert (job.trace_id, job.parent_id) == (task.trace_id, task.span_id)
        assert int(task.began) <= job.began  # the times of batches are whole seconds
    assert job.attributes["openai_batches.rounds"] == 1
    assert job.attributes["airflow.dag_run.run_id"] == run
    batches = collector.named("chat")
    assert {batch.parent_id for batch in batches} == {job.span_id}
    assert len(batches) == len(service.batches()) == 4
    assert KEY.encode() not in b"".join(collector.bodies)


def _of_task(collector: Collector) -> list[Got]:
    """The task's own spans: one of each process on Airflow 3.0 and 3.1, and then one of all."""
    return [span for span in collector.spans if span.name in {TASK, f"task_run.{TASK}"}]
