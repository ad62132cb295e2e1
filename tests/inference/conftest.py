"""What the tests of a job share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from inferencekit import MortalHook
from pricekit import PRICES, connect

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def module_server() -> Iterator[DevServer]:
    with DevServer(batch_seconds=0.05) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        # A batch whose answer was lost is looked for only briefly, unlike in a real deployment.
        patch.setenv("AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS", "0.2")
        yield server


@pytest.fixture
def server(module_server: DevServer) -> Iterator[DevServer]:
    """One server for a module, reset for each test; the default connection leads to it."""
    before = dict(os.environ)
    module_server.reset()
    module_server.settings(batch_seconds=0.05)
    yield module_server
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def everybody_lives() -> None:
    """No test leaves a death behind for the next one."""
    MortalHook.doom = ("", "", 0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The directory of the results."""
    return tmp_path / "out"


@pytest.fixture
def priced(server: DevServer) -> DevServer:
    """A server with prices, whose batches cost half."""
    connect({"prices": PRICES})
    return server
