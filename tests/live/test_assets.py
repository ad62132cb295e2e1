"""Assets in a real Airflow: results that start a DAG, and batches of others that do."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from airflow.triggers.base import BaseEventTrigger
from support import ENDPOINT, request_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_stack import AirflowStack

    from airflow_provider_openai_batches.devserver import DevServerClient

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
KEY = "sk-live-test-key-that-must-show-nowhere"
WATCHED = "live_from_elsewhere"
# Since Airflow 3.3 a trigger keeps its position, and misses nothing while no triggerer runs.
KEEPS_POSITION = hasattr(BaseEventTrigger, "shared_stream_key")


def unpause(airflow: AirflowStack, dag: str, *, is_paused: bool = False) -> None:
    airflow.wait_for_dag(dag)
    airflow.api("PATCH", f"/dags/{dag}", json={"is_paused": is_paused})


def runs(airflow: AirflowStack, dag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = airflow.api("GET", f"/dags/{dag}/dagRuns")["dag_runs"]
    return found


def said(airflow: AirflowStack, dag: str, count: int) -> list[dict[str, Any]]:
    """Wait until so many runs are over, and return what started them, in no order."""

    def are_over() -> bool:
        return len([run for run in runs(airflow, dag) if run["state"] == "success"]) >= count

    airflow.wait_until(are_over, 90, f"{count} runs of {dag}", lambda: str(runs(airflow, dag)))
    everything = [airflow.xcom(dag, run["dag_run_id"], "said") for run in runs(airflow, dag)]
    return [extra for extras in everything for extra in extras]


def test_an_outlet_starts_the_next_dag_and_says_what_came_out(
    airflow: AirflowStack, service: DevServerClient
) -> None:
    service.reset()
    service.settings(batch_seconds=1)
    unpause(airflow, "live_outlet_reader")
    run = airflow.trigger("live_outlet")
    assert airflow.wait_for_run("live_outlet", run) == "success"
    (extra,) = said(airflow, "live_outlet_reader", 1)
    summary = airflow.xcom("live_outlet", run, "ask")
    assert extra["rows"] == 3
    assert extra["counts"] == summary["counts"]
    assert extra["output_uri"] == summary["output_uri"]
    assert Path(extra["output_uri"], "manifest.json").is_file()
    assert set(extra["cost"]) == {"usd", "is_known"}


@pytest.fixture
def watched(airflow: AirflowStack, service: DevServerClient) -> Iterator[str]:
    """The DAG, while its watcher asks for the list; it is the only one that does."""
    service.reset()
    service.settings(batch_seconds=600)
    unpause(airflow, WATCHED)
    wait_for_looks(airflow, service)
    yield WATCHED
    unpause(airflow, WATCHED, is_paused=True)


def wait_for_looks(airflow: AirflowStack, service: DevServerClient, count: int = 2) -> None:
    def looks() -> int:
        return int(service.stats()["requests"].get("list_batches", 0))

    before = looks()
    airflow.wait_until(lambda: looks() >= before + count, 90, "the watcher asks for the list")


def submit(service: DevServerClient) -> str:
    """Submit a batch as a program would that knows nothing of Airflow."""
    with httpx.Client(base_url=service.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        file = http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", request_lines())})
        order = {"input_file_id": file.json()["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        batch = http.post("/batches", json={**order, "metadata": {"team": "elsewhere"}})
        return str(batch.raise_for_status().json()["id"])


def wait_until_kept(airflow: AirflowStack, batch_id: str) -> None:
    """Until then, a triggerer that dies may tell of the batch again."""

    def is_kept() -> bool:
        with closing(sqlite3.connect(airflow.home / "airflow.db")) as connection:
            rows = connection.execute("select value from asset_state_store").fetchall()
        return batch_id in json.dumps(rows)

    airflow.wait_until(is_kept, 60, "the position is stored")


@pytest.mark.long
def test_a_batch_from_elsewhere_starts_one_run_when_it_ends(
    airflow: AirflowStack, service: DevServerClient, watched: str
) -> None:
    """The triggerer is restarted in the middle, and killed while the second one ends."""
    first = submit(service)
    wait_for_looks(airflow, service)
    airflow.kill("triggerer", signal.SIGTERM)
    airflow.start_component("triggerer")
    wait_for_looks(airflow, service)
    service.force(first, status="completed")
    (extra,) = said(airflow, watched, 1)
    payload = extra["payload"]
    assert (payload["batch_id"], payload["status"]) == (first, "completed")
    assert payload["counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert payload["metadata"] == {"team": "elsewhere"}
    assert payload["output_file_id"]
    second = submit(service)
    if KEEPS_POSITION:
        wait_until_kept(airflow, first)
    airflow.kill("triggerer", signal.SIGKILL)
    if KEEPS_POSITION:
        service.force(second, status="completed")
    airflow.start_component("triggerer")
    wait_for_looks(airflow, service)
    service.force(second, status="completed")
    extras = said(airflow, watched, 2)
    wait_for_looks(airflow, service, 4)
    assert sorted(one["payload"]["batch_id"] for one in extras) == sorted([first, second])
    assert len(runs(airflow, watched)) == 2
