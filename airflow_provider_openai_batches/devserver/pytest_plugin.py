"""
A pytest fixture that gives each test its own dev server.

Opt in with ``pytest_plugins = ["airflow_provider_openai_batches.devserver.pytest_plugin"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_openai_batches.devserver.server import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_SECONDS = 0.2


@pytest.fixture
def openai_batches_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """A running dev server that the connection ``openai_batches_default`` points to."""
    with DevServer(batch_seconds=BATCH_SECONDS) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
