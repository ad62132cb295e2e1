"""The single-batch operators and the sensor say what a batch cost when it ends."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from support import ENDPOINT, request_lines, run_task, task_context

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICancelBatchOperator,
    OpenAICreateBatchOperator,
)
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver import DevServer

CONN = "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"
# A dollar for each token of the output in batches, and nothing for the input.
PRICES = {"gpt-5-mini": {"input": 0, "output": 2_000_000}}


@pytest.fixture
def priced(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> DevServer:
    """A dev server whose connection has prices."""
    connection = json.loads(os.environ[CONN])
    monkeypatch.setenv(CONN, json.dumps({**connection, "extra": json.dumps({"prices": PRICES})}))
    return server


def created(**kwargs: Any) -> OpenAICreateBatchOperator:
    return OpenAICreateBatchOperator(
        task_id="t", endpoint=ENDPOINT, input_file_id=uploaded(), poll_interval=0.1, **kwargs
    )


def uploaded() -> str:
    return OpenAIBatchesHook().upload_file(io.BytesIO(request_lines()), "in.jsonl").id


def a_batch() -> str:
    return OpenAIBatchesHook().create_batch(uploaded(), ENDPOINT).id


MADE: dict[str, Callable[[], Any]] = {
    "create, deferred": created,
    "create, in the worker": lambda: created(deferrable=False),
    "cancel": lambda: OpenAICancelBatchOperator(
        task_id="c", batch_id=a_batch(), wait_for_completion=True, poll_interval=0.1
    ),
    "sensor, deferred": lambda: OpenAIBatchSensor(task_id="s", batch_id=a_batch(), poll_interval=0.1),
    "sensor, poking": lambda: OpenAIBatchSensor(
        task_id="s", batch_id=a_batch(), poll_interval=0.1, deferrable=False
    ),
}


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was logged since it was last asked for, on every version of Airflow."""
    caplog.set_level("INFO")

    def read() -> str:
        lines = capfd.readouterr().out or "\n".join(caplog.messages)
        caplog.clear()
        return lines

    return read


@pytest.mark.parametrize("way", MADE)
@pytest.mark.usefixtures("priced")
def test_the_log_says_what_it_cost(way: str, logged: Callable[[], str]) -> None:
    """One line; the XCom stays the batch's own fields."""
    batch = run_task(MADE[way]())
    usd = (batch["usage"] or {"output_tokens": 0})["output_tokens"]
    assert logged().count(f"Batch {batch['id']} cost ${usd:,}.00") == 1
    assert "cost" not in batch


@pytest.mark.usefixtures("server")
def test_without_a_price_the_log_says_what_to_do(logged: Callable[[], str]) -> None:
    """A host of one's own has no list prices."""
    batch = run_task(created())
    said = f"The cost of batch {batch['id']} is unknown: gpt-5-mini has no price; enter them in the "
    assert logged().count(said) == 1


@pytest.mark.usefixtures("priced")
def test_a_later_try_says_it_too(logged: Callable[[], str]) -> None:
    """One that uses the completed batch of an earlier try."""
    operator = created()
    batch = run_task(operator)
    logged()
    assert run_task(operator, task_context(operator, try_number=2))["id"] == batch["id"]
    assert logged().count(f"Batch {batch['id']} cost $") == 1
