"""The page's settings of a connection: which connections count, and that their secrets are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat import sdk

from airflow_provider_openai_batches.exceptions import InvalidConnectionError
from airflow_provider_openai_batches.plugin.connections import load_config

if TYPE_CHECKING:
    from collections.abc import Callable

    Define = Callable[..., str]


@pytest.fixture
def masked(_database: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was masked in the logs."""
    secrets: list[str] = []
    monkeypatch.setattr(sdk, "mask_secret", secrets.append)
    return secrets


def test_every_secret_is_masked(connection: Define, masked: list[str]) -> None:
    """The key, and the values of headers; some also in other forms, such as base64."""
    connection("full", extra={"headers": {"Cookie": "hush", "X-Team": "search"}})
    assert load_config("full").api_key == "sk-secret-1234567890"
    assert set(masked) >= {"sk-secret-1234567890", "Bearer sk-secret-1234567890", "hush"}


def test_nobody_waits_long_for_a_page(connection: Define, masked: list[str]) -> None:
    """Timeouts of a task are too long for it; shorter ones are kept, and nothing is tried twice."""
    connection("slow", extra={"timeout": 600, "connect_timeout": 60, "max_attempts": 9})
    slow = load_config("slow")
    assert (slow.timeout, slow.connect_timeout, slow.max_attempts) == (15, 5, 1)
    connection("quick", extra={"timeout": 2, "connect_timeout": 1})
    quick = load_config("quick")
    assert (quick.timeout, quick.connect_timeout) == (2, 1)


def test_a_connection_of_another_type_counts_as_missing(connection: Define, masked: list[str]) -> None:
    """Its settings are not read."""
    connection("warehouse", conn_type="postgres")
    with pytest.raises(sdk.AirflowNotFoundException):
        load_config("warehouse")
    assert masked == []


def test_missing_and_unusable_are_different(connection: Define, masked: list[str]) -> None:
    """The page has a sentence for each."""
    connection("empty", password="")
    with pytest.raises(sdk.AirflowNotFoundException):
        load_config("nope")
    with pytest.raises(InvalidConnectionError):
        load_config("empty")
