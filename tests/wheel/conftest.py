"""The package as users get it; `make test-wheel` builds it, and these tests run only there."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from wheelkit import Installation

if TYPE_CHECKING:
    from collections.abc import Iterator

collect_ignore_glob = [] if "WHEEL" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.at(tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="session")
def service(installation: Installation) -> Iterator[str]:
    """The base URL of the wheel's own dev server; the default connection leads to it."""
    server = "-m", "airflow_provider_openai_batches.devserver", "--port", "0", "--batch-seconds", "0.2"
    with installation.start(*server) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        # In the environment, because in Airflow's test runner a trigger cannot read one of the database.
        connection = json.dumps({"conn_type": "openai_batches", "host": url, "password": "sk-none"})
        installation.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"] = connection
        yield url
        process.terminate()
