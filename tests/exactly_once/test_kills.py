"""
A task is killed at every moment, in a real process and with real signals, and the service counts batches.

With ``cancel_on_kill``, no batch is left running. Without it, the kill cancels and creates nothing.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from doomed import PAUSE, Doomed
from support import run_task, task_context, until

from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.devserver import DevServer

    Start = Callable[..., Doomed]

DELAY = 0.4
OF_PROCESS = {"slow", "pause", "try_number", "event", "state", "max_tries"}
# Where the task is killed: what makes it slow there, and which requests have arrived by then.
MOMENTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "before it begins": ({"slow": "start"}, {}, ""),
    "while its input is checked": ({"slow": "input"}, {}, ""),
    "in the upload": ({}, {"operation": "upload_file", "action": "delay", "seconds": DELAY}, "upload_file"),
    "before the batch is stored": (
        {},
        {"operation": "create_batch", "action": "delay", "seconds": DELAY},
        "create_batch",
    ),
    "while it looks for its batch": (
        {},
        {"operation": "create_batch", "action": "drop_after"},
        "list_batches",
    ),
    "between create and defer": ({"slow": "xcom"}, {}, "create_batch"),
    "while it waits in the worker": ({"deferrable": False}, {}, "retrieve_batch"),
}
LATER_MOMENTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "before it begins": ({"slow": "start"}, {}, ""),
    "while its input is checked": ({"slow": "input"}, {}, ""),
    "in the search": ({}, {"operation": "list_batches", "action": "delay", "seconds": DELAY}, "list_batches"),
    "between search and defer": ({"slow": "xcom"}, {}, "list_batches"),
}


@pytest.fixture
def start(server: DevServer, options: dict[str, Any]) -> Iterator[Start]:
    """Starts a task in a process of its own; batches would run for a minute."""
    server.settings(batch_seconds=60)
    started: list[Doomed] = []

    def begin(**how: Any) -> Doomed:
        own = {name: how.pop(name) for name in OF_PROCESS & how.keys()}
        task = Doomed({**options, **how}, **own)
        started.append(task)
        return task

    yield begin
    for task in started:
        task.end()


def requests(server: DevServer, operation: str) -> int:
    return int(server.stats()["requests"].get(operation, 0))


def reach(server: DevServer, task: Doomed, slow: str, operation: str, times: int = 1) -> None:
    """Wait until the task is at the place where it is to be killed."""
    if slow:
        assert task.word() == slow
    if operation:
        until(lambda: requests(server, operation) >= times)
        time.sleep(0.1)  # the request has begun; now it is under way


def earlier_try(options: dict[str, Any]) -> str:
    """Leave a running batch behind, as a first try does if it ends by SIGKILL."""
    operator = OpenAICreateBatchOperator(**options, wait_for_completion=False)
    return str(operator.execute(task_context(operator))["id"])


def earlier_batch_that_is_over(server: DevServer, options: dict[str, Any]) -> None:
    """Make a failed batch from the same input, old enough to be listed however long the lag is."""
    batch_id = earlier_try(options)
    server.force(batch_id, status="failed")
    record = server.service.batches.get(batch_id)
    assert record
    record.born -= 60


def hang_up(server: DevServer, times: int) -> None:
    """Listen in place of a stopped server, and close this many connections without an answer."""
    with socket.create_server(("127.0.0.1", urlsplit(server.base_url).port)) as listener:
        listener.settimeout(15)
        for _ in range(times):
            listener.accept()[0].close()


def assert_none_runs(server: DevServer) -> None:
    assert {batch["status"] for batch in server.batches()} <= {"cancelling", "cancelled", "failed"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_nothing_running(server: DevServer, start: Start, moment: str) -> None:
    """At every moment of a first try."""
    how, fault, operation = MOMENTS[moment]
    if fault:
        server.faults([fault])
    if moment == "while it looks for its batch":
        server.settings(list_lag_seconds=1)
    task = start(**how)
    reach(server, task, how.get("slow", ""), operation)
    if moment == "while it waits in the worker":  # it goes on waiting for "cancelled", which takes its time
        task.process.terminate()
        until(lambda: requests(server, "cancel_batch") > 0)
        task.end()
    else:
        task.kill()
    assert_none_runs(server)
    assert len(server.batches()) <= 1
    time.sleep(DELAY)  # for what would still be stored
    assert_none_runs(server)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_without_cancel_on_kill_cancels_nothing(server: DevServer, start: Start, moment: str) -> None:
    """What was not sent before the kill is not sent afterwards."""
    how, fault, operation = MOMENTS[moment]
    if fault:
        server.faults([fault])
    task = start(**how, cancel_on_kill=False)
    reach(server, task, how.get("slow", ""), operation)
    before = server.stats()["requests"]
    task.kill(seconds=PAUSE * 2)
    after = server.stats()["requests"]
    assert "cancel_batch" not in after
    assert after.get("create_batch", 0) == before.get("create_batch", 0)
    assert after.get("upload_file", 0) == before.get("upload_file", 0)


@pytest.mark.parametrize("moment", LATER_MOMENTS)
def test_a_kill_of_a_later_try_ends_what_the_first_one_left(
    server: DevServer, start: Start, options: dict[str, Any], moment: str
) -> None:
    """A later try cancels the batch of a try that died, whether or not it has found that batch yet."""
    how, fault, operation = LATER_MOMENTS[moment]
    earlier_try({**options})
    if fault:
        server.faults([fault])
    task = start(**how, try_number=2)
    reach(server, task, how.get("slow", ""), operation)
    task.kill()
    assert [batch["status"] in {"cancelling", "cancelled"} for batch in server.batches()] == [True]


@pytest.mark.parametrize(
    ("state", "max_tries"),
    [("restarting", 0), ("scheduled", 0), ("up_for_retry", 1), ("running", 1)],
    ids=["cleared", "taken over", "to be retried", "a worker that ends"],
)
def test_a_try_that_is_stopped_leaves_its_batch_to_the_next(
    server: DevServer, start: Start, options: dict[str, Any], state: str, max_tries: int
) -> None:
    """Airflow also stops processes of tasks that go on later; their batches must not be cancelled."""
    task = start(slow="xcom", state=state, max_tries=max_tries)
    reach(server, task, "xcom", "create_batch")
    assert task.kill() == "deferred"
    operator = OpenAICreateBatchOperator(**options, wait_for_completion=False)
    operator.execute(task_context(operator, try_number=2))
    assert [batch["status"] for batch in server.batches()] == ["validating"]


@pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", "running"])
def test_the_last_try_of_a_task_cancels(server: DevServer, start: Start, state: str) -> None:
    """The task was marked, deleted, timed out with its run, or had no try left: nobody waits any more."""
    task = start(slow="xcom", state=state, max_tries=1 if state != "running" else 0)
    reach(server, task, "xcom", "create_batch")
    assert task.kill() == "TaskKilled"
    assert_none_runs(server)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("slow", "lists"), [("start", 0), ("input", 0), ("", 2)])
def test_a_kill_while_the_batch_of_an_earlier_try_is_not_listed_yet(
    server: DevServer, start: Start, options: dict[str, Any], slow: str, lists: int, *, is_first: bool
) -> None:
    """The search goes on until the list shows the batch; an older batch that is over does not end it."""
    if not is_first:
        earlier_batch_that_is_over(server, options)
    server.settings(list_lag_seconds=60)
    earlier_try(options)
    task = start(try_number=2, slow=slow)
    reach(server, task, slow, "list_batches" if lists else "", times=lists)
    looks = requests(server, "list_batches")
    task.process.terminate()
    until(lambda: requests(server, "list_batches") >= looks + 2)  # it looked once more, and found nothing
    server.settings(list_lag_seconds=0)
    task.process.join(4)
    task.end()
    assert_none_runs(server)


def test_a_kill_while_the_answer_is_late_and_the_list_lags(server: DevServer, start: Start) -> None:
    """The list never shows it, but the answer comes within Airflow's five seconds."""
    server.settings(list_lag_seconds=60)
    server.faults([{"operation": "create_batch", "action": "delay", "seconds": DELAY}])
    task = start()
    reach(server, task, "", "create_batch")
    assert task.kill() == "TaskKilled"
    assert len(server.batches()) == 1
    assert_none_runs(server)


def test_a_time_out_while_the_answer_is_lost_and_a_failed_batch_has_the_same_key(
    server: DevServer, start: Start, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed batch of an earlier try is not taken for the one that was being created."""
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS", "2")
    earlier_batch_that_is_over(server, options)
    server.settings(list_lag_seconds=60)
    server.faults([{"operation": "create_batch", "action": "drop_after"}])
    task = start(try_number=2)
    reach(server, task, "", "create_batch", times=2)
    task.time_out()
    assert task.word() == "overdue"
    looks = requests(server, "list_batches")
    until(lambda: requests(server, "list_batches") >= looks + 2)
    server.settings(list_lag_seconds=0)
    assert task.word() == "timeout"
    assert len(server.batches()) == 2
    assert_none_runs(server)


def test_a_kill_in_an_outage_cancels_as_soon_as_it_is_over(server: DevServer, start: Start) -> None:
    """Cancelling is tried again within the time that Airflow gives."""
    task = start(slow="xcom")
    reach(server, task, "xcom", "create_batch")
    server.stop()
    task.process.terminate()
    hang_up(server, times=2)
    server.start()
    task.process.join(3.5)
    task.end()
    assert_none_runs(server)


@pytest.mark.parametrize("action", [{"action": "delay", "seconds": 3}, {"action": "status", "status": 503}])
def test_a_cancel_that_fails_is_sent_again(server: DevServer, start: Start, action: dict[str, Any]) -> None:
    """The first answer does not come, or is a 503."""
    server.faults([{"operation": "cancel_batch", **action}])
    task = start(slow="xcom")
    reach(server, task, "xcom", "create_batch")
    task.kill()
    assert_none_runs(server)
    assert server.stats()["requests"]["cancel_batch"] >= 2


@pytest.mark.parametrize(
    ("how", "fault", "stored"),
    [
        ({}, {"operation": "upload_file", "action": "delay", "seconds": 2.5}, 0),
        ({}, {"operation": "create_batch", "action": "drop_after"}, 1),
        ({"slow": "xcom", "pause": 10}, {"operation": "create_batch", "action": "delay"}, 1),
    ],
    ids=["in the upload", "while it looks for its batch", "between create and defer"],
)
def test_an_execution_timeout_leaves_nothing_running(
    server: DevServer, start: Start, how: dict[str, Any], fault: dict[str, Any], stored: int
) -> None:
    """Airflow raises it wherever the task is, and calls on_kill() afterwards."""
    server.settings(list_lag_seconds=0 if how else 1.5)
    server.faults([fault])
    task = start(**how)
    reach(server, task, how.get("slow", ""), fault["operation"])
    task.time_out()
    assert (task.word(), task.word()) == ("overdue", "timeout")
    assert_none_runs(server)
    assert len(server.batches()) == stored


@pytest.mark.parametrize("slow", ["start", ""])
def test_a_kill_as_a_timed_out_wait_is_resumed(
    server: DevServer, start: Start, options: dict[str, Any], slow: str
) -> None:
    """The resumed task is about to cancel when it is killed."""
    batch_id = earlier_try(options)
    server.faults([{"operation": "cancel_batch", "action": "delay", "seconds": DELAY}])
    event = {"status": "timeout", "message": "It took too long.", "batches": {batch_id: "in_progress"}}
    task = start(event=event, slow=slow)
    reach(server, task, slow, "" if slow else "cancel_batch")
    task.kill()
    assert_none_runs(server)


def test_a_kill_in_the_resume_loses_no_result(
    server: DevServer, start: Start, options: dict[str, Any]
) -> None:
    """The task is killed while it waits for file ids that lag; the next try gets the result at no cost."""
    server.settings(batch_seconds=0.1, output_id_lag_seconds=60)
    batch_id = earlier_try(options)
    until(lambda: server.batches()[0]["status"] == "completed")
    task = start(event={"status": "finished", "message": "", "batches": {batch_id: "completed"}})
    reach(server, task, "", "retrieve_batch")
    task.kill(seconds=1)
    server.settings(output_id_lag_seconds=0)
    operator = OpenAICreateBatchOperator(**options)
    result = run_task(operator, task_context(operator, try_number=2))
    assert (result["id"], server.stats()["batches"]["stored"]) == (batch_id, 1)


@pytest.mark.parametrize("moment", [name for name, entry in MOMENTS.items() if entry[2]])
def test_a_crash_at_any_moment_costs_no_second_batch(
    server: DevServer, start: Start, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """SIGKILL, so no on_kill(): the next try takes up the batch, or creates it if there is none."""
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS", "1.5")
    how, fault, operation = MOMENTS[moment]
    if fault:
        server.faults([fault])
    task = start(**how)
    reach(server, task, how.get("slow", ""), operation)
    task.end()
    server.settings(batch_seconds=0.2)
    operator = OpenAICreateBatchOperator(**options, wait_for_completion=False)
    operator.execute(task_context(operator, try_number=2))
    assert len(server.batches()) == 1


def test_an_upload_that_ends_after_the_kill_is_not_submitted(server: DevServer, start: Start) -> None:
    """The task runs on after on_kill(), but its create is refused."""
    server.faults([{"operation": "upload_file", "action": "delay", "seconds": DELAY}])
    task = start()
    reach(server, task, "", "upload_file")
    assert task.kill() == "TaskKilled"
    assert server.batches() == []
