"""A store that does not let its user do something: refused before anything is spent, if possible."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from inferencekit import again, job, rows, waits
from support import run_task

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from cloudkit import MotoStore

    from airflow_provider_openai_batches.devserver import DevServer

DENIED: dict[str, tuple[Any, str]] = {
    "write": (lambda method, path: method == "PUT", "cannot be written"),
    "list": (lambda method, path: path.endswith("?list"), "cannot be listed"),
    "delete": (
        lambda method, path: method == "DELETE" or path.endswith("?delete"),
        "files there cannot be deleted",
    ),
    "anything": (lambda method, path: True, "cannot be written"),
    "read": (
        lambda method, path: method == "GET" and not path.endswith("?list"),
        "Access Denied|cannot be read",
    ),
}


def new() -> str:
    return f"s3://aws_default@bucket/{uuid.uuid4().hex}"


@pytest.mark.parametrize("right", DENIED)
def test_a_missing_right_is_found_before_anything_is_spent(
    server: DevServer, s3: MotoStore, right: str
) -> None:
    """It fails at once, whatever the task's retries, and leaves no part of a job there."""
    s3.denied, said = DENIED[right]
    uri = new()
    with pytest.raises(AirflowFailException, match=said):
        run_task(job(uri, requests=rows(3)))
    assert server.stats()["requests"] == {}
    s3.denied = lambda _method, _path: False
    left = {name.rpartition("/")[2] for name in as_path(uri).fs.find(as_path(uri).path)}
    # A claim that cannot be read is not known to be this task's.
    assert [name for name in left if not name.startswith(".air")] == ["owner.json"] * (right == "read")


@pytest.mark.parametrize("right", ["write", "list", "delete", "read"])
def test_a_right_that_is_taken_away_later(server: DevServer, s3: MotoStore, right: str) -> None:
    """Nothing half-written is taken for whole, and the next try pays nothing twice."""
    uri = new()
    operator = job(uri, requests=rows(20), max_requests_per_batch=5)
    waiting = waits(operator)
    next(waiting)
    s3.denied = DENIED[right][0]
    with pytest.raises(OpenAIBatchesError, match="Nothing is lost") as raised:
        list(waiting)
    assert not isinstance(raised.value, AirflowFailException)
    s3.denied = lambda _method, _path: False
    again(operator)
    assert server.stats()["paid_more_than_once"] == 0
    place = as_path(uri)
    place.fs.invalidate_cache()
    found = sorted(name.rpartition("/")[2] for name in place.fs.find(place.path))
    assert found == ["manifest.json", "part-00000.jsonl"]


@pytest.mark.parametrize("right", ["list", "read"])
def test_rows_that_cannot_be_read(server: DevServer, s3: MotoStore, right: str) -> None:
    uri = new()
    fs, place = as_path(uri).fs, as_path(uri).path
    fs.pipe_file(f"{place}/in/a.jsonl", b'{"text": "one", "marker": ""}\n')
    denied = DENIED[right][0]
    s3.denied = lambda method, path: denied(method, path) and ("/in" in path or path.endswith("?list"))
    with pytest.raises(AirflowFailException, match=r"(?i)denied"):
        run_task(job(f"{uri}/out", input_uri=f"{uri}/in", body={"messages": []}))
    assert server.stats()["requests"] == {}
