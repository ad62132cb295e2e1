"""A dev server, its clock, and a plain client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from devserver_api import Api, LeapingClock

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> LeapingClock:
    return LeapingClock()


@pytest.fixture
def server(clock: LeapingClock) -> Iterator[DevServer]:
    with DevServer(batch_seconds=0.05, clock=clock) as running:
        yield running


@pytest.fixture
def api(server: DevServer) -> Iterator[Api]:
    made = Api(server.base_url)
    with made.http:
        yield made
