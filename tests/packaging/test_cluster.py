"""The parts of `make cluster` that need no cluster: what it kills, what it counts, and when all is well."""

from __future__ import annotations

import os
import runpy
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import airflow
import kills
import psutil
import pytest
from airflow.providers.common.compat.sdk import BaseHook
from airflow_stack import AirflowStack
from cluster import HERE, TRIGGERERS, WORKERS, Cluster, connections
from kills import Kills
from measure import Gauges
from outcome import Outcome, covered
from servers import BatchApi, PostgreSQL, Redis, Store

from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

of_the_cluster = pytest.mark.skipif(airflow.__version__ < "3.2", reason="the cluster has a newer one")
GOOD = Outcome(
    rows=3,
    state="success",
    loaded=3,
    right=3,
    stats={
        "paid_more_than_once": 0,
        "request_lines_paid": 3,
        "batches": {"running": 0, "stored": 1, "by_status": {"completed": 1}},
    },
    spans=[(0, 4)],
    wall=10,
    memory=200_000_000,
    scratch=1_000_000,
    store=Counter(GET=2),
    kills=Counter(worker=1),
    tries={"ask": 2},
    seconds={"load": 1.25, "ask": 3.0},
)
RUNNING = {
    "task_id": "ask",
    "try_number": 1,
    "state": "running",
    "hostname": "worker-2",
    "triggerer_job": None,
}
DEFERRED = {**RUNNING, "state": "deferred", "triggerer_job": {"hostname": "triggerer-1"}}


class FakeCluster:
    """Writes down what is killed and started."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def kill(self, name: str = "server") -> None:
        self.log.append(f"kill {name}")

    def start_component(self, name: str) -> None:
        self.log.append(f"start {name}")

    def start(self) -> None:
        self.log.append("start server")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "DOWN", 0)
    monkeypatch.setattr(kills, "PAUSE", 0)


def made(fake: FakeCluster, wanted: int) -> Kills:
    servers = cast("Any", {"redis": fake})
    return Kills(cast("Any", fake), servers, wanted, lambda _: None)


def test_the_first_kills_hit_what_has_the_task(quick: None) -> None:
    fake = FakeCluster()
    chosen = made(fake, wanted=3)
    for task in (DEFERRED, RUNNING, RUNNING, DEFERRED, DEFERRED, DEFERRED):
        chosen.step(task)
    victims = ["worker-2", "triggerer-1", "scheduler"]
    assert fake.log == [f"{action} {name}" for name in victims for action in ("kill", "start")]
    assert chosen.done == Counter(["worker", "triggerer", "scheduler"])


def test_later_kills_are_of_every_kind(quick: None) -> None:
    fake = FakeCluster()
    chosen = made(fake, wanted=60)
    for number in range(500):
        chosen.step({**RUNNING, "try_number": number})
        chosen.step(DEFERRED)
    assert chosen.done.total() == 60
    kinds = {"worker", "triggerer", "scheduler", "dag-processor", "execution-api", "redis"}
    assert chosen.done == Counter(dict.fromkeys(kinds, 10))


def test_a_try_is_killed_once(quick: None) -> None:
    """Airflow goes on to call it running for half a minute."""
    fake = FakeCluster()
    chosen = made(fake, wanted=60)
    for _ in range(50):
        chosen.step(RUNNING)
        chosen.step(DEFERRED)
    assert chosen.done["worker"] == 1


def test_nothing_is_killed_while_another_is_still_coming_back() -> None:
    fake = FakeCluster()
    chosen = made(fake, wanted=0)
    chosen.step(RUNNING)
    assert fake.log == []


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0), ([(1, 3)], 2), ([(5, 6), (1, 3)], 3), ([(1, 4), (2, 3)], 3), ([(1, 3), (2, 5)], 4)],
)
def test_time_that_batches_share_counts_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == seconds


def test_the_table_says_what_came_of_it() -> None:
    assert GOOD.is_good
    table = GOOD.table()
    for line in (
        "| rows | 3 |",
        "| run | success; tries: 2 ask |",
        "| **requests paid twice** | **0** |",
        "| **table complete** | **yes** (3 rows) |",
        "| wall time | 10 s; batches ran for 4 s of it |",
        "| wall time beyond the batches' own | 6 s |",
        "| the last step of each task | ask 3.0 s, load 1.2 s |",
        "| memory of a task, at most | 200 MB |",
        "| requests to the store | 2 (2 GET) |",
    ):
        assert line in table.splitlines()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "failed"},
        {"loaded": 2},
        {"loaded": 4},
        {"right": 2},
        {"stats": {**GOOD.stats, "paid_more_than_once": 1}},
        {"stats": {**GOOD.stats, "batches": {**GOOD.stats["batches"], "running": 1}}},
    ],
)
def test_anything_lost_or_paid_twice_or_left_is_a_failure(change: dict[str, Any]) -> None:
    assert not replace(GOOD, **change).is_good


def test_the_stores_log_is_counted_by_bucket_and_method(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.log.write_text(
        '127.0.0.1 - - [26/Nov/2026 04:30:00] "PUT /results HTTP/1.1" 200 -\n'
        '127.0.0.1 - - [26/Nov/2026 04:30:00] "PUT /results/a/part-00000.jsonl HTTP/1.1" 200 -\n'
        '127.0.0.1 - - [26/Nov/2026 04:30:00] "GET /results?list-type=2&prefix=a/ HTTP/1.1" 200 -\n'
        '127.0.0.1 - - [26/Nov/2026 04:30:00] "HEAD /results/a/x?versionId=1 HTTP/1.1" 404 -\n'
        '127.0.0.1 - - [26/Nov/2026 04:30:00] "GET /others/a HTTP/1.1" 200 -\n'
    )
    assert store.requests("results") == Counter(PUT=2, LIST=1, HEAD=1)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr("servers._package", lambda name: tmp_path / name)
    return Cluster(tmp_path / "airflow", PostgreSQL(tmp_path), Redis(tmp_path), {"MORE": "1"})


def test_each_machine_has_a_disk_of_its_own(cluster: Cluster) -> None:
    names = {*WORKERS, *TRIGGERERS, "api-server", "execution-api", "scheduler", "dag-processor"}
    assert set(cluster.components) == names
    for variable in ("AIRFLOW_HOME", "TMPDIR", "CLUSTER_NODE"):
        assert len({part.environment[variable] for part in cluster.components.values()}) == len(names)
    assert all(part.folder == cluster.home / name for name, part in cluster.components.items())
    assert cluster.environment["MORE"] == "1"


def test_what_ended_by_itself_is_started_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(cluster, "start_component", started.append)
    with psutil.Popen(["true"]) as ended, psutil.Popen(["sleep", "30"]) as running:
        ended.wait()
        cluster.processes |= {"scheduler": ended, "worker-1": running}
        assert cluster.revive() == ["scheduler"]
        running.kill()
    assert started == ["scheduler"]


@of_the_cluster
def test_the_dag_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_REQUESTS_PER_BATCH", "5000")
    dag = runpy.run_path(str(HERE / "dags" / "table_to_table.py"))["dag"]
    assert dag.dag_id == "table_to_table"
    assert dag.task_ids == ["ask", "load"]
    assert dag.get_task("ask").max_requests_per_batch == 5_000
    load = dag.get_task("load")
    assert isinstance(load, OpenAIBatchResultsToSqlOperator)
    assert list(load.columns or ()) == ["id", "answer"]


@of_the_cluster
def test_the_connections_lead_to_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers._package", lambda name: tmp_path / name)
    postgresql, store, api = PostgreSQL(tmp_path), Store(tmp_path), BatchApi(tmp_path, batch_seconds=3)
    for name, text in connections(postgresql, store, api).items():
        monkeypatch.setenv(name, text)
    service = ClientConfig.from_connection(BaseHook.get_connection("openai_batches_default"), {})
    assert service.base_url == api.url
    assert set(service.enqueued_token_limits) == {"gpt-5-mini"}
    assert BaseHook.get_connection("aws_default").extra_dejson["endpoint_url"] == store.url
    assert BaseHook.get_connection("warehouse").port == postgresql.port


def test_processes_below_the_home_are_found_and_others_are_not(tmp_path: Path) -> None:
    """Those are stopped at the end, wherever below it they run."""
    stack = AirflowStack(tmp_path / "home", tmp_path)
    below = tmp_path / "home" / "worker-1"
    below.mkdir(parents=True)
    (tmp_path / "home-of-others").mkdir()
    sleep = ["sleep", "30"]
    with (
        psutil.Popen(sleep, cwd=below) as ours,
        psutil.Popen(sleep, env={**os.environ, "AIRFLOW_HOME": str(below)}) as ours_too,
        psutil.Popen(sleep, cwd=tmp_path / "home-of-others") as theirs,
    ):
        found = {process.pid for process in stack._strays()}
        for process in (ours, ours_too, theirs):
            process.kill()
        assert {ours.pid, ours_too.pid} <= found
        assert theirs.pid not in found


def test_the_gauges_keep_the_highest_values(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    me = psutil.Process()
    monkeypatch.setattr(cluster, "tasks_of", lambda worker: [me] if worker == "worker-1" else [])
    big = cluster.scratch("worker-2") / "file"
    big.write_bytes(b"x" * 100_000)
    gauges = Gauges(cluster)
    gauges.read()
    big.unlink()
    monkeypatch.setattr(cluster, "tasks_of", lambda _: [])
    gauges.read()
    assert gauges.scratch >= 100_000
    assert gauges.memory >= me.memory_info().rss * 0.5


def test_the_gauges_are_read_while_something_runs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measure.INTERVAL", 0.01)
    was_read = threading.Event()
    monkeypatch.setattr(Gauges, "read", lambda _: was_read.set())
    with Gauges(cluster):
        assert was_read.wait(30)


def test_the_batch_api_keeps_its_port(tmp_path: Path) -> None:
    api = BatchApi(tmp_path, batch_seconds=3)
    assert f":{api.port}/v1" in api.url
    assert str(api.port) in api.command()
