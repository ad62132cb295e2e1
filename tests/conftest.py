"""Shared by all tests: an Airflow home of their own, before anything imports Airflow."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dagkit import DagRuns
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver import DevServer

HOME = Path(tempfile.mkdtemp(prefix="airflow-tests-"))
for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "OPENAI_"))]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "NO_PROXY": "127.0.0.1,localhost",
}

# The same examples in every run, and no limit of time, which a busy machine would pass.
settings.register_profile(
    "house", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

pytest_plugins = ["airflow_provider_openai_batches.devserver.pytest_plugin"]


@pytest.fixture
def server(openai_batches_server: DevServer) -> DevServer:
    """A dev server that the default connection leads to."""
    return openai_batches_server


@pytest.fixture(scope="session")
def airflow_database() -> dict[str, str]:
    """The environment of an Airflow with a database, for programs of their own."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "airflow", "db", "migrate"], check=True, capture_output=True
    )
    return dict(os.environ)


@pytest.fixture(scope="session")
def dag_runs(airflow_database: dict[str, str]) -> Iterator[DagRuns]:
    """DAGs in Airflow's own test runner, on the database of the tests."""
    with DagRuns.started(airflow_database) as runs:
        yield runs


def pytest_collection_finish() -> None:
    """What was collected stays to the end: looking through it again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first; those that start an Airflow last."""
    items.sort(
        key=lambda item: bool(item.get_closest_marker("live")) + 2 * bool(item.get_closest_marker("ui"))
    )
