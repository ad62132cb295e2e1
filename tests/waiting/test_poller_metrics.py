"""The poller counts its rounds, requests and waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from support import first_event

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger

if TYPE_CHECKING:
    import pytest

    from airflow_provider_openai_batches.devserver import DevServer


def test_rounds_requests_and_waits_are_counted(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests as the server saw, the 429 among them; and no wait is left in the end."""
    sent: list[tuple[str, float]] = []
    monkeypatch.setattr(metrics, "_send", lambda method, name, value, tags: sent.append((name, value)))
    server.seed(1, status="completed")
    (batch,) = (batch.id for batch in OpenAIBatchesHook().iter_batches())
    server.faults([{"operation": "retrieve_batch", "action": "status", "status": 429}])
    event: Any = asyncio.run(first_event(OpenAIBatchTrigger("openai_batches_default", [batch], 0.1)))
    assert event["status"] == "finished"
    asked = server.stats()["requests"]["retrieve_batch"]
    assert sum(value for name, value in sent if name == "poller.requests") == asked == 2
    assert sum(value for name, value in sent if name == "poller.rate_limited") == 1
    assert [value for name, value in sent if name == "poller.waits"][-1] == 0
