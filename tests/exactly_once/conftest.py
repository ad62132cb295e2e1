"""Fixtures for the tests of a task's tries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from support import ENDPOINT, request_lines

from airflow_provider_openai_batches.devserver import DevServer
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = "AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS"


@pytest.fixture(scope="module")
def module_server() -> Iterator[DevServer]:
    with DevServer(batch_seconds=0.2) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def server(module_server: DevServer) -> Iterator[DevServer]:
    """One server for a module, reset for each test; the default connection leads to it."""
    before = dict(os.environ)
    module_server.reset()
    yield module_server
    module_server.start()  # a test may have stopped it
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """For how many seconds a batch is looked for: shorter than by default."""
    monkeypatch.setenv(PATIENCE, "0.2")
    return 0.2


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[str], int]:
    """How often a task has logged a text; where that goes depends on how Airflow has set up logging."""
    return lambda text: max(capsys.readouterr().out.count(text), caplog.text.count(text))


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """The arguments of a task that submits three requests."""
    (tmp_path / "in.jsonl").write_bytes(request_lines())
    return {
        "task_id": "t",
        "endpoint": ENDPOINT,
        "poll_interval": 0.1,
        "input_file": str(tmp_path / "in.jsonl"),
    }


@pytest.fixture
def task(options: dict[str, Any]) -> Callable[..., OpenAICreateBatchOperator]:
    """Makes the operator of such a task."""

    def make(**kwargs: Any) -> OpenAICreateBatchOperator:
        given = {**options, **kwargs}
        if "input_file_id" in kwargs:
            del given["input_file"]
        return OpenAICreateBatchOperator(**given)

    return make
