"""A URI of a store that names no connection uses Airflow's default one, where it says anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
from airflow.sdk.io import store

from airflow_provider_openai_batches import storage

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULTS = {"s3": "aws_default", "gs": "google_cloud_default", "abfs": "wasb_default"}


@pytest.fixture(autouse=True)
def _stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No client of a store is installed here."""
    memory = fsspec.filesystem("memory")
    known = {
        "-".join(filter(None, (scheme, conn_id))): store.ObjectStore(scheme, conn_id, memory)
        for scheme, default in DEFAULTS.items()
        for conn_id in (None, default, "mine")
    }
    monkeypatch.setattr(store, "_STORE_CACHE", known)
    storage.default_connection.cache_clear()
    yield
    storage.default_connection.cache_clear()


def connection_of(uri: str) -> str | None:
    """As Airflow's releases agree to say it."""
    place = str(storage.as_path(uri)).partition("://")[2].partition("/")[0]
    return place.rpartition("@")[0] or None


def connect(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    """Have one connection alone."""

    def get_connection(conn_id: str) -> Any:
        if conn_id != name:
            raise AirflowNotFoundException(conn_id)
        empty: dict[str, Any] = {"host": None, "login": None, "password": None, "extra": {}}
        given = {**empty, **fields}
        return SimpleNamespace(**given, extra_dejson=given["extra"])

    monkeypatch.setattr(BaseHook, "get_connection", get_connection)


@pytest.mark.parametrize("scheme", DEFAULTS)
@pytest.mark.parametrize(
    "fields", [{"login": "me"}, {"password": "it"}, {"host": "there"}, {"extra": {"region_name": "x"}}]
)
def test_a_default_connection(monkeypatch: pytest.MonkeyPatch, scheme: str, fields: dict[str, Any]) -> None:
    connect(monkeypatch, DEFAULTS[scheme], **fields)
    assert connection_of(f"{scheme}://bucket/out") == DEFAULTS[scheme]


@pytest.mark.parametrize("scheme", DEFAULTS)
def test_one_that_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    connect(monkeypatch, DEFAULTS[scheme], login="me")
    assert connection_of(f"{scheme}://mine@bucket/out") == "mine"


@pytest.mark.parametrize("scheme", DEFAULTS)
def test_no_connection(scheme: str) -> None:
    """The store's client looks for credentials itself, as before."""
    assert connection_of(f"{scheme}://bucket/out") is None


@pytest.mark.parametrize("extra", [{}, {"sas_token": None}])
def test_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> None:
    """Airflow makes such connections in a new database."""
    connect(monkeypatch, "wasb_default", extra=extra)
    assert connection_of("abfs://container/out") is None


def test_an_at_sign_in_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "aws_default", login="me")
    assert connection_of("s3://bucket/me@home") == "aws_default"


def test_what_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB and Spark know no connections of Airflow's."""
    connect(monkeypatch, "aws_default", login="me")
    for uri in ("s3://bucket/out", "s3://aws_default@bucket/out"):
        assert storage.as_given(uri, storage.as_path(uri)) == uri
