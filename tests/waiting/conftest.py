"""A server whose batches do not change by themselves, and a check of what each test leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from waiting_room import connection

from airflow_provider_openai_batches.devserver import DevServer
from airflow_provider_openai_batches.polling import client, lister, poller

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """The default connection leads to it."""
    monkeypatch.setattr(lister, "PAGE_AGAIN_AFTER", 0.05)
    with DevServer(freeze=True) as running:
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", connection(running))
        yield running
    assert not poller._pollers, "a poller outlived its waiters"
    assert not client._clients, "a client outlived its users"
