"""A cancel that is refused because the batch is over: one look at the batch decides."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
from support import ENDPOINT, request_lines
from waiting_room import CONN, notebook_of

from airflow_provider_openai_batches.exceptions import APIError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

FAILS: dict[str, Any] = {"operation": "cancel_batch", "action": "status", "times": None}
OVER = ["completed", "failed", "expired", "cancelled"]


def batch(server: DevServer, status: str | None) -> str:
    server.settings(freeze=True)
    hook = OpenAIBatchesHook()
    batch_id = hook.create_batch(hook.upload_file(io.BytesIO(request_lines())).id, ENDPOINT).id
    if status:
        server.force(batch_id, status=status)
    return batch_id


def asked(server: DevServer) -> tuple[int, int]:
    made = server.stats()["requests"]
    return made.get("cancel_batch", 0), made.get("retrieve_batch", 0)


@pytest.mark.parametrize("code", [400, 409, 500, 502, 503])
@pytest.mark.parametrize("status", OVER)
def test_the_hook_looks_once(server: DevServer, status: str, code: int) -> None:
    """Nothing is repeated, and nothing waited for."""
    batch_id = batch(server, status)
    server.faults([{**FAILS, "status": code}])
    paused: list[float] = []
    assert OpenAIBatchesHook(sleep=paused.append).cancel_batch(batch_id).status == status
    assert (asked(server), paused) == ((1, 1), [])


def test_what_still_runs_is_cancelled_again(server: DevServer) -> None:
    """Its 5xx was a passing fault."""
    batch_id = batch(server, None)
    server.faults([{**FAILS, "status": 500, "times": 2}])
    assert OpenAIBatchesHook(sleep=lambda _: None).cancel_batch(batch_id).status == "cancelling"
    assert asked(server) == (3, 2)


def test_a_service_that_is_away_is_an_error_in_the_end(server: DevServer) -> None:
    """Neither the cancel nor the look gets an answer."""
    batch_id = batch(server, None)
    server.faults([{**FAILS, "operation": "*", "status": 503}])
    with pytest.raises(APIError, match="503"):
        OpenAIBatchesHook(sleep=lambda _: None).cancel_batch(batch_id)


@pytest.mark.parametrize("code", [400, 409, 500])
@pytest.mark.parametrize("status", OVER)
def test_a_trigger_looks_once(server: DevServer, status: str, code: int) -> None:
    """It repeated the cancel for 25 seconds, and then wrote an error."""
    batch_id = batch(server, status)
    server.faults([{**FAILS, "status": code}])
    trigger = OpenAIBatchTrigger(CONN, [batch_id], cancel_on_kill=True)
    notebook = notebook_of(trigger)
    asyncio.run(trigger.cancel_batches())
    assert asked(server) == (1, 1)
    assert notebook.lines == [f"The task was killed: {batch_id} is now {status}"]
