"""What happens to a request that is under way when the task is stopped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from support import ENDPOINT

from airflow_provider_openai_batches.exceptions import TaskKilled
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency import submit
from airflow_provider_openai_batches.idempotency.keys import TaskIdentity

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.mark.parametrize("operation", ["upload_file", "create_batch"])
def test_a_body_is_held_back_when_the_kill_comes_while_it_connects(
    server: DevServer, options: dict[str, Any], operation: str
) -> None:
    """The request was let through, its connection is being made, and then the task is stopped."""
    hook = OpenAIBatchesHook()
    file_id = hook.upload_file(options["input_file"]).id
    calls: dict[str, Callable[[], Any]] = {
        "upload_file": lambda: hook.upload_file(options["input_file"]),
        "create_batch": lambda: hook.create_batch(file_id, ENDPOINT),
    }
    send = hook.get_conn().request

    def killed_on_the_way(*args: Any, **kwargs: Any) -> Any:
        hook.stop()
        return send(*args, **kwargs)

    hook.get_conn().request = killed_on_the_way  # type: ignore[method-assign]
    with pytest.raises(TaskKilled, match=f"{operation} was not sent"):
        calls[operation]()
    assert (server.stats()["files"], server.batches()) == (1, [])


def test_a_batch_whose_answer_comes_after_the_kill_is_cancelled_at_once(
    server: DevServer, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled before the job creates its next batch, which is refused and ends the task."""
    monkeypatch.setattr(submit, "SEARCH_SECONDS", 0.1)
    server.settings(batch_seconds=60, list_lag_seconds=60)
    hook = OpenAIBatchesHook()
    task = TaskIdentity("deployment", "dag", "run", "t")
    submitter = submit.Submitter(hook, task, None, logging.getLogger())
    send = hook.get_conn().request

    def answered_late(method: str, url: str, **kwargs: Any) -> Any:
        answer = send(method, url, **kwargs)
        if url.endswith("/batches"):
            submitter.kill()
        return answer

    monkeypatch.setattr(hook.get_conn(), "request", answered_late)
    with pytest.raises(TaskKilled, match="it is cancelled"):
        submitter.submit_file(submit.BatchSpec(endpoint=ENDPOINT), "key", options["input_file"])
    assert [batch["status"] for batch in server.batches()] == ["cancelling"]
