"""A dev server and a plain client for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from devserver_api import Api

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[DevServer]:
    with DevServer(batch_seconds=0.05) as running:
        yield running


@pytest.fixture
def api(server: DevServer) -> Iterator[Api]:
    made = Api(server.base_url)
    with made.http:
        yield made
