"""One real Airflow for all live tests, and a dev server in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow_stack import AirflowStack

from airflow_provider_openai_batches.devserver import DevServerClient

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-live-test-key-that-must-show-nowhere"
DAGS = Path(__file__).parent / "dags"
# Two times that are 30 seconds by default: until another triggerer takes over the triggers of a dead one, and
# how long a batch that might be stored is looked for.
LESS_PATIENCE = {
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS": "8",
}


@pytest.fixture(scope="session")
def service() -> Iterator[DevServerClient]:
    """The dev server as ``python -m`` starts it."""
    command = [
        sys.executable,
        "-m",
        "airflow_provider_openai_batches.devserver",
        "--port",
        "0",
        "--api-key",
        KEY,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        url = line[line.index("http") :].split()[0]
        try:
            with DevServerClient(url) as client:
                yield client
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def airflow(service: DevServerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """Scheduler, triggerer, DAG processor and API servers."""
    home = tmp_path_factory.mktemp("live") / "airflow"
    environment = {"LIVE_WORK": str(home.parent), **LESS_PATIENCE}
    with AirflowStack(home, DAGS, environment) as stack:
        connection = {"conn_type": "openai_batches", "host": service.base_url, "password": KEY}
        stack.airflow("connections", "add", "openai_batches_default", "--conn-json", json.dumps(connection))
        yield stack
