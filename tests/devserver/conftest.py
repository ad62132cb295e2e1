"""A dev server, its clock, and a plain client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from devserver_api import Api, LeapingClock

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Any:
    """A clock that leaps to the next moment that matters, or the module's own kind of ``CLOCK``."""
    return getattr(request.module, "CLOCK", LeapingClock)()


@pytest.fixture
def server(request: pytest.FixtureRequest, clock: Any) -> Iterator[DevServer]:
    """A server whose batches take so many seconds as the module's ``BATCH_SECONDS`` says."""
    with DevServer(batch_seconds=getattr(request.module, "BATCH_SECONDS", 0.05), clock=clock) as running:
        yield running


@pytest.fixture
def api(server: DevServer) -> Iterator[Api]:
    made = Api(server.base_url)
    with made.http:
        yield made
