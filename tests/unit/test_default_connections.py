"""A URI of a store that names no connection uses Airflow's default one, where it says anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from airflow_provider_openai_batches import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULTS = {"s3": "aws_default", "gs": "google_cloud_default", "abfs": "wasb_default"}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """With which connections the clients of stores were made; none of them is installed here."""
    from airflow.sdk.io import fs

    made: list[str | None] = []

    def get_fs(conn_id: str | None) -> Any:
        made.append(conn_id)
        return fsspec.filesystem("memory")

    stores = dict.fromkeys(DEFAULTS, get_fs)
    monkeypatch.setattr(fs, "_register_filesystems", lambda: stores)
    monkeypatch.setattr("airflow.sdk.io.store._STORE_CACHE", {})
    storage.default_connection.cache_clear()
    yield made
    storage.default_connection.cache_clear()


def connect(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "any", **fields}))


@pytest.mark.parametrize("scheme", DEFAULTS)
@pytest.mark.parametrize(
    "fields", [{"login": "me"}, {"password": "it"}, {"host": "there"}, {"extra": {"region_name": "x"}}]
)
def test_a_default_connection(monkeypatch: pytest.MonkeyPatch, scheme: str, fields: dict[str, Any]) -> None:
    connect(monkeypatch, DEFAULTS[scheme], **fields)
    assert storage.as_path(f"{scheme}://bucket/out").conn_id == DEFAULTS[scheme]


@pytest.mark.parametrize("scheme", DEFAULTS)
def test_one_that_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    connect(monkeypatch, DEFAULTS[scheme], login="me")
    connect(monkeypatch, "mine", login="me")
    assert storage.as_path(f"{scheme}://mine@bucket/out").conn_id == "mine"


@pytest.mark.parametrize("scheme", DEFAULTS)
def test_no_connection(scheme: str) -> None:
    """The store's client looks for credentials itself, as before."""
    assert storage.as_path(f"{scheme}://bucket/out").conn_id is None


@pytest.mark.parametrize("extra", [{}, {"sas_token": None}])
def test_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> None:
    """Airflow makes such connections in a new database."""
    connect(monkeypatch, "wasb_default", extra=extra)
    assert storage.as_path("abfs://container/out").conn_id is None


def test_an_at_sign_in_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "aws_default", login="me")
    assert storage.as_path("s3://bucket/me@home").conn_id == "aws_default"


def test_what_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB and Spark know no connections of Airflow's."""
    connect(monkeypatch, "aws_default", login="me")
    for uri in ("s3://bucket/out", "s3://aws_default@bucket/out"):
        assert storage.as_given(uri, storage.as_path(uri)) == uri
