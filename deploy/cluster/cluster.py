"""Airflow as a company runs it: Celery workers and triggerers with disks of their own."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from airflow_stack import AirflowStack, Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from servers import BatchApi, PostgreSQL, Redis, Store

HERE = Path(__file__).parent
WORKERS = ("worker-1", "worker-2")
TRIGGERERS = ("triggerer-1", "triggerer-2")
CONCURRENCY = 2
# Airflow's own timeouts, shortened from minutes to seconds: here machines really are lost.
TIMES = {
    "AIRFLOW__CELERY__TASK_ACKS_LATE": "True",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
    "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "50",
    "AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS": "8",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}


def connections(postgresql: PostgreSQL, store: Store, batch_api: BatchApi) -> dict[str, str]:
    """The three connections of the DAG, as environment variables. No server here asks for a secret."""
    aws = {"endpoint_url": store.url, "region_name": "us-east-1"}
    # An account whose limit is known: a job need not find out how many batches the service takes.
    limits = {"enqueued_token_limits": {"gpt-5-mini": 10**12}}
    found = {
        "OPENAI_BATCHES_DEFAULT": {
            "conn_type": "openai_batches",
            "host": batch_api.url,
            "password": "any-key",
            "extra": limits,
        },
        "AWS_DEFAULT": {"conn_type": "aws", "login": "any-key", "password": "any-secret", "extra": aws},
        "WAREHOUSE": {
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": postgresql.port,
            "login": "airflow",
            "schema": "warehouse",
        },
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(fields) for name, fields in found.items()}


class Cluster(AirflowStack):
    """
    Scheduler, DAG processor, two API servers, two triggerers, and two Celery workers.

    :param environment: more variables for all of them.
    """

    def __init__(
        self, home: Path, postgresql: PostgreSQL, redis: Redis, environment: Mapping[str, str]
    ) -> None:
        database = postgresql.url("airflow", "postgresql+psycopg2")
        ours = {
            "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{redis.port}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "cluster_node.name",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID": "cluster",
            "PYTHONPATH": str(HERE / "nodes"),
        }
        super().__init__(home, HERE / "dags", {**ours, **TIMES, **environment})
        del self.components["triggerer"]
        for name in (*self.components, *TRIGGERERS, *WORKERS):
            arguments = self.components[name].arguments if name in self.components else _arguments(name)
            self.components[name] = self._machine(name, arguments)

    def _machine(self, name: str, arguments: list[str]) -> Component:
        """A process with a working directory, a home and a place for temporary files of its own."""
        folder = self.home / name
        (folder / "tmp").mkdir(parents=True)
        own = {"AIRFLOW_HOME": str(folder), "TMPDIR": str(folder / "tmp"), "CLUSTER_NODE": name}
        return Component(arguments, folder, own)

    def is_healthy(self) -> bool:
        """Whether all components work; a worker says so in its log each time it starts."""
        return super().is_healthy() and all(" ready." in self.log_tail(name, 1_000) for name in WORKERS)

    def revive(self) -> list[str]:
        """Start again what ended by itself, as a process manager does: some parts end with their database."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            self.start_component(name)
        return ended

    def scratch(self, name: str) -> Path:
        """Where a component puts its temporary files."""
        return self.home / name / "tmp"

    def tasks_of(self, worker: str) -> list[psutil.Process]:
        """The processes that run tasks on a worker now: the children of those of Celery's pool."""
        found: list[psutil.Process] = []
        if process := self.processes.get(worker):
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children():
                    found += child.children()
        return found


def _arguments(name: str) -> list[str]:
    if name in TRIGGERERS:
        return ["triggerer", "--skip-serve-logs"]
    quiet = ["--skip-serve-logs", "--without-mingle", "--without-gossip"]
    return ["celery", "worker", "--celery-hostname", f"{name}@%h", "--concurrency", str(CONCURRENCY), *quiet]
