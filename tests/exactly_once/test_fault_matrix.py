"""
Each endpoint meets each fault, and the service counts: always one batch stored, never one left running.

The scenario is a whole job of the hook (upload, create, retrieve, list, cancel, and what the files need), and
the fault strikes one of its calls, once or twice in a row.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import pytest
from support import ENDPOINT, request_lines

from airflow_provider_openai_batches.exceptions import CreateUncertainError, OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

OPERATIONS = [
    "create_batch",
    "retrieve_batch",
    "list_batches",
    "cancel_batch",
    "upload_file",
    "retrieve_file",
    "delete_file",
    "download_file",
]
KIND = {operation: "/files" if operation.endswith("_file") else "/batches" for operation in OPERATIONS}
HTML = "<html><body>502 Bad Gateway</body></html>"
# Faults that pass: the job goes on as if nothing had happened.
FAULTS: dict[str, dict[str, Any]] = {
    "cut before": {"action": "drop_before"},
    "cut during the answer": {"action": "drop_during"},
    "cut after it was done": {"action": "drop_after"},
    "half a body": {"action": "half_body"},
    "408": {"action": "status", "status": 408},
    "408 after it was done": {"action": "status", "status": 408, "after": True},
    "429": {"action": "status", "status": 429},
    "429 with Retry-After": {"action": "status", "status": 429, "headers": {"Retry-After": "2"}},
    "500": {"action": "status", "status": 500},
    "500 after it was done": {"action": "status", "status": 500, "after": True},
    "502 of a proxy": {"action": "status", "status": 502, "body": HTML, "content_type": "text/html"},
    "502 after it was done": {"action": "status", "status": 502, "body": HTML, "after": True},
    "503": {"action": "status", "status": 503},
    "503 after it was done": {"action": "status", "status": 503, "after": True},
    "504": {"action": "status", "status": 504},
    "504 after it was done": {"action": "status", "status": 504, "after": True},
    "slow": {"action": "delay", "seconds": 0.1},
    "slower than the time-out": {"action": "delay", "seconds": 0.3},
}
# Those that make sense for some endpoints only, and mean an error for the rest.
ONLY: dict[str, tuple[list[str], dict[str, Any]]] = {
    "409": (["create_batch", "upload_file"], {"action": "status", "status": 409}),
    "409 after it was done": (["create_batch"], {"action": "status", "status": 409, "after": True}),
    "invalid JSON": (
        [name for name in OPERATIONS if name not in {"download_file", "delete_file"}],
        {"action": "invalid_json"},
    ),
}
MATRIX = [(operation, name, fault) for operation in OPERATIONS for name, fault in FAULTS.items()] + [
    (operation, name, fault) for name, (operations, fault) in ONLY.items() for operation in operations
]
# No client can notice half a file that comes with a matching length.
MATRIX = [entry for entry in MATRIX if entry[:2] != ("download_file", "half a body")]


def job(hook: OpenAIBatchesHook) -> None:
    """Every endpoint once; the batch is cancelled in the end."""
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    assert hook.retrieve_file(file.id).id == file.id
    batch = hook.create_batch(file.id, ENDPOINT)
    assert hook.retrieve_batch(batch.id).id == batch.id
    assert [listed.id for listed in hook.iter_batches()] == [batch.id]
    assert hook.cancel_batch(batch.id).status in {"cancelling", "cancelled"}
    sink = io.BytesIO()
    hook.download_file(file.id, sink)
    assert sink.getvalue() == request_lines()
    hook.delete_file(file.id)


def assert_one_and_none(server: DevServer) -> None:
    """One batch stored, and none that goes on."""
    assert [batch["status"] in {"cancelling", "cancelled"} for batch in server.batches()] == [True]


def short_sleep(seconds: float) -> None:
    time.sleep(seconds / 100)


@pytest.fixture
def hook(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIBatchesHook:
    connection = server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"]
    timeout = connection.rstrip("}") + ', "extra": {"timeout": 0.2}}'
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", timeout)
    server.settings(batch_seconds=60)
    return OpenAIBatchesHook(recovery_seconds=10, sleep=short_sleep)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("operation", "fault"), [pytest.param(o, f, id=f"{o}-{n}") for o, n, f in MATRIX])
def test_a_fault_costs_no_second_batch(
    server: DevServer, hook: OpenAIBatchesHook, operation: str, fault: dict[str, Any], times: int
) -> None:
    """One batch stored, none left running, whatever broke, once or twice."""
    server.faults([{"operation": operation, "times": times, **fault}])
    job(hook)
    assert server.stats()["faults_fired"] >= 1
    assert_one_and_none(server)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refused_connection_is_waited_out(
    server: DevServer, hook: OpenAIBatchesHook, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """The service is away just when this call comes, and back a moment later."""
    send = hook.get_conn().request
    path = {"download_file": "/content", "cancel_batch": "/cancel"}.get(operation, "")
    method = {"create_batch": "POST", "upload_file": "POST", "cancel_batch": "POST", "delete_file": "DELETE"}
    broken = False

    def away(verb: str, url: str, **kwargs: Any) -> Any:
        nonlocal broken
        if (
            not broken
            and verb == method.get(operation, "GET")
            and url.endswith(path)
            and KIND[operation] in url
        ):
            broken = True
            server.stop()
        return send(verb, url, **kwargs)

    def back(seconds: float) -> None:
        if broken:
            server.start()
        short_sleep(seconds)

    monkeypatch.setattr(hook.get_conn(), "request", away)
    hook.session._sleep = back
    job(hook)
    assert broken
    assert_one_and_none(server)


@pytest.mark.parametrize("fault", ["drop_after", "drop_during", "half_body"])
def test_a_list_that_lags_is_asked_again(server: DevServer, hook: OpenAIBatchesHook, fault: str) -> None:
    """The answer is lost, and the list shows the batch only some seconds later."""
    server.settings(list_lag_seconds=0.05)
    server.faults([{"operation": "create_batch", "action": fault}])
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    hook.cancel_batch(hook.create_batch(file.id, ENDPOINT).id)
    assert_one_and_none(server)


def test_other_batches_are_not_adopted(server: DevServer, hook: OpenAIBatchesHook) -> None:
    """In an account that is full of other batches, the task finds its own batch, or creates it."""
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    server.seed(250, metadata={"airflow_key": "another"}, status="in_progress")
    server.faults(
        [
            {"operation": "create_batch", "action": "drop_before"},
            {"operation": "create_batch", "action": "drop_after"},
        ]
    )
    batch = hook.create_batch(file.id, ENDPOINT)
    assert batch.input_file_id == file.id
    assert server.stats()["batches"]["stored"] == 1


def test_nothing_is_sent_again_while_the_list_cannot_be_read(
    server: DevServer, hook: OpenAIBatchesHook
) -> None:
    """While the batch may have been stored, create is not sent again; the error says what to look for."""
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    server.faults(
        [
            {"operation": "create_batch", "action": "drop_after"},
            {"operation": "list_batches", "action": "status", "times": None},
        ]
    )
    with pytest.raises(CreateUncertainError, match="airflow_key=once-"):
        hook.create_batch(file.id, ENDPOINT)
    assert server.stats()["batches"]["stored"] == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_final(server: DevServer, hook: OpenAIBatchesHook, status: int) -> None:
    """The service said no: one request, nothing stored."""
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    server.faults([{"operation": "create_batch", "action": "status", "status": status}])
    with pytest.raises(OpenAIBatchesError, match=f"HTTP {status}"):
        hook.create_batch(file.id, ENDPOINT)
    stats = server.stats()
    assert stats["requests"]["create_batch"] == 1
    assert stats["batches"]["stored"] == 0


def test_a_create_without_money_is_final(server: DevServer, hook: OpenAIBatchesHook) -> None:
    """insufficient_quota is a 429 that no retry can help."""
    file = hook.upload_file(io.BytesIO(request_lines()), "in.jsonl")
    fault = {"operation": "create_batch", "action": "status", "status": 429, "code": "insufficient_quota"}
    server.faults([{**fault, "times": None}])
    with pytest.raises(OpenAIBatchesError, match="insufficient_quota"):
        hook.create_batch(file.id, ENDPOINT)
    assert server.stats()["requests"]["create_batch"] == 1
