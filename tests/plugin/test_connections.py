"""Connections that are read outside a task: which count, and that their secrets are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_openai_batches.compat import connections
from airflow_provider_openai_batches.exceptions import InvalidConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    Define = Callable[..., str]


@pytest.fixture
def masked(_database: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was masked in the logs."""
    secrets: list[str] = []
    monkeypatch.setattr(connections, "mask_secret", secrets.append)
    return secrets


def test_every_secret_is_masked(connection: Define, masked: list[str]) -> None:
    """The key, and headers that carry a secret."""
    connection("full", extra={"headers": {"Cookie": "hush", "X-Team": "search"}})
    config = connections.read_config_from_database("full")
    assert config.api_key == "sk-secret-1234567890"
    assert set(masked) == {"sk-secret-1234567890", "Bearer sk-secret-1234567890", "hush"}


def test_a_type_that_does_not_count(connection: Define, masked: list[str]) -> None:
    """The connection counts as missing, and its settings are not read."""
    connection("warehouse", conn_type="postgres")
    assert connections.read_config_from_database("warehouse").api_key
    masked.clear()
    with pytest.raises(AirflowNotFoundException):
        connections.read_config_from_database("warehouse", ("openai_batches", "openai"))
    assert masked == []


def test_missing_and_unusable_are_two_things(connection: Define, masked: list[str]) -> None:
    """The page and the command line say different sentences for them."""
    connection("empty", password="")
    with pytest.raises(AirflowNotFoundException):
        connections.read_config_from_database("nope")
    with pytest.raises(InvalidConnectionError):
        connections.read_config_from_database("empty")
