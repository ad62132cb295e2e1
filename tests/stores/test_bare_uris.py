"""URIs without a connection, and buckets that are not there."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from inferencekit import job, rows
from support import run_task

from airflow_provider_openai_batches.storage import default_connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    default_connection.cache_clear()
    yield
    default_connection.cache_clear()


@pytest.mark.parametrize("scheme", ["s3", "gs", "abfs"])
def test_a_whole_job(server: DevServer, request: pytest.FixtureRequest, scheme: str) -> None:
    request.getfixturevalue({"s3": "s3", "gs": "gcs", "abfs": "azure"}[scheme])
    uri = f"{scheme}://bucket/{uuid.uuid4().hex}/"
    summary = run_task(job(uri, requests=rows(3)))
    assert summary["output_uri"] == uri.rstrip("/")
    assert summary["counts"]["succeeded"] == 3


@pytest.mark.parametrize("scheme", ["s3", "gs", "abfs"])
def test_no_such_bucket(server: DevServer, request: pytest.FixtureRequest, scheme: str) -> None:
    """None is made: its name may be a slip of the pen."""
    request.getfixturevalue({"s3": "s3", "gs": "gcs", "abfs": "azure"}[scheme])
    with pytest.raises(AirflowFailException, match="cannot be written"):
        run_task(job(f"{scheme}://nobucket{uuid.uuid4().hex[:8]}/out", requests=rows(3)))
    assert server.stats()["requests"] == {}
