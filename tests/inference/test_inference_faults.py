"""What no retry mends fails at once; what may pass is tried again; a local output is warned of."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from inferencekit import job, rows
from support import run_task

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference import target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def of_store(name: str, module: str, **fields: Any) -> Exception:
    """An exception of a store's library, which need not be installed."""
    error: Exception = type(name, (Exception,), {"__module__": module})("it said no")
    for field, value in fields.items():
        setattr(error, field, value)
    return error


CAUSES: list[tuple[Exception, bool]] = [
    (PermissionError("Access Denied"), True),
    (FileNotFoundError("The specified bucket does not exist"), True),
    (NotADirectoryError("a file is in the way"), True),
    (ImportError("Install s3fs to access S3"), True),
    (ValueError("unknown protocol"), True),
    (of_store("NoCredentialsError", "botocore.exceptions"), True),
    (of_store("ClientAuthenticationError", "azure.core.exceptions"), True),
    (of_store("HttpError", "gcsfs.retry", code=403), True),
    (of_store("HttpError", "gcsfs.retry", code=503), False),
    (of_store("EndpointConnectionError", "botocore.exceptions"), False),
    (OSError("[Errno 28] No space left on device"), False),
    (TimeoutError("the store does not answer"), False),
    (ConnectionResetError("the store hung up"), False),
]


@pytest.mark.parametrize(("cause", "fails_at_once"), CAUSES, ids=lambda value: str(value)[:30])
def test_an_output_that_cannot_be_written(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, fails_at_once: bool
) -> None:
    """Missing rights and names stay missing; a store that does not answer may in the next try."""

    def fail(*_: Any) -> None:
        raise cause

    monkeypatch.setattr(target, "storage", SimpleNamespace(**{**vars(storage), "open_binary": fail}))
    with pytest.raises(InvalidInputError, match="cannot be written") as raised:
        run_task(job(out, requests=rows(1)))
    assert isinstance(raised.value, AirflowFailException) is fails_at_once
    assert server.stats()["requests"] == {}


def _no_credentials() -> Any:
    raise of_store("NoCredentialsError", "botocore.exceptions")
    yield


@pytest.mark.parametrize(
    "given",
    [
        lambda: {"requests": []},
        lambda: {"requests": rows(2), "max_requests": 1},
        lambda: {"input_uri": "/no/such/file.jsonl"},
        lambda: {"requests": _no_credentials()},
    ],
)
def test_bad_input_uses_up_no_tries(
    server: DevServer, out: Path, given: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises(AirflowFailException) as raised:
        run_task(job(out, **given()))
    assert isinstance(raised.value, InvalidInputError)
    assert server.stats()["requests"] == {}
    assert not (out / "_job").exists()


@pytest.mark.parametrize(
    ("place", "executor", "is_warned"),
    [
        ("relative/out", "LocalExecutor", True),
        ("{out}", "LocalExecutor", False),
        ("{out}", "CeleryExecutor", True),
        ("file://{out}", "LocalExecutor,KubernetesExecutor", True),
        ("memory://warned/out", "CeleryExecutor", False),
    ],
)
def test_an_output_on_one_workers_disk(  # noqa: PLR0917 - fixtures and a table
    server: DevServer,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    executor: str,
    is_warned: bool,
) -> None:
    """The worker that starts the job, and the one that ends it, name themselves and the whole path."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.chdir(out.parent)
    operator = job(place.format(out=out), requests=rows(1), overwrite=True)
    warned: list[str] = []
    monkeypatch.setattr(operator.log, "warning", lambda text, *given: warned.append(text % given))
    run_task(operator)
    warned = [said for said in warned if said.startswith("output_uri")]
    assert bool(warned) is is_warned
    assert all(socket.gethostname() in said and str(out.parent) in said for said in warned)
