"""A connection with prices, and what was paid, for the tests of costs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from inferencekit import BODY, job
from support import run_task

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

CONNECTION = "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"
# US dollars for a million tokens.
PRICES = {"gpt-5-mini": {"input": 100, "cached_input": 10, "output": 20_000}}
# The dev server does not keep to it, so its answers are longer than the estimate says.
SHORT = {**BODY, "max_completion_tokens": 1}
# One small batch after the other.
ONE_BY_ONE: dict[str, Any] = {"body": SHORT, "max_requests_per_batch": 4, "max_active_batches": 1}


def connect(extra: dict[str, Any]) -> None:
    """Add fields to the default connection."""
    connection = json.loads(os.environ[CONNECTION])
    given = connection.get("extra") or {}
    given = json.loads(given) if isinstance(given, str) else given
    os.environ[CONNECTION] = json.dumps({**connection, "extra": {**given, **extra}})


def price(usage: dict[str, int], share: float) -> float:
    """The price of tokens, worked out from the table above."""
    fresh = usage["input_tokens"] - usage["cached_tokens"]
    return share * (fresh * 0.0001 + usage["cached_tokens"] * 0.00001 + usage["output_tokens"] * 0.02)


def full_cost(server: DevServer, out: Path, **given: Any) -> float:
    """Return what a job without a limit costs; the server forgets it, and ``out`` is not touched."""
    summary = run_task(job(out.parent / "full", **given, task_id="full"))
    server.reset()
    return float(summary["cost"]["usd"])


def paid(server: DevServer) -> int:
    stats = server.stats()
    assert stats["paid_more_than_once"] == stats["live"]["paid_more_than_once"] == 0
    return int(stats["request_lines_paid"] + stats["live"]["paid"])


def assert_nothing_sent(server: DevServer) -> None:
    stats = server.stats()
    assert not {"upload_file", "create_batch"} & set(stats["requests"])
    assert stats["live"]["executed"] == 0
