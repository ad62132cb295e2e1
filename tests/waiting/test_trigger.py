"""The trigger as Airflow knows it: what it stores, what it refuses, and what a kill does."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.triggers.base import BaseTrigger
from waiting_room import CONN, Notebook, Waiting, connection, notebook_of, requests, run, seed, until

from airflow_provider_openai_batches.triggers import openai_batches
from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer


def status_of(server: DevServer, batch_id: str) -> str:
    return str(server.service.find_batch(batch_id).wire.status)


def cancels(server: DevServer) -> int:
    return int(server.stats()["requests"].get("cancel_batch", 0))


def test_what_is_stored_makes_the_same_trigger_and_is_plain_json() -> None:
    """It goes through Airflow's database, and no secret is in it."""
    arguments: dict[str, Any] = {
        "openai_conn_id": "conn",
        "batch_ids": ["a", "b"],
        "poll_interval": 5.0,
        "end_time": 1e9,
        "cancel_on_kill": True,
        "return_when": "FIRST_COMPLETED",
        "progress": {"batches": 7, "finished": 5, "total": 10, "completed": 4, "failed": 1, "round": 2},
        "max_poll_interval": 60.0,
    }
    path, stored = OpenAIBatchTrigger(**arguments).serialize()
    assert path == "airflow_provider_openai_batches.triggers.openai_batches.OpenAIBatchTrigger"
    assert json.loads(json.dumps(stored)) == arguments
    assert OpenAIBatchTrigger(**stored).serialize() == (path, stored)


def test_few_arguments_are_enough() -> None:
    """A minute between two looks, and the batch's own deadline."""
    trigger = OpenAIBatchTrigger("conn", ["a"])
    assert (trigger.poll_interval, trigger.end_time, trigger.cancel_on_kill) == (60.0, None, False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_ids": ["a/../b"]}, "no slash"),
        ({"batch_ids": [""]}, "batch_ids is ''"),
        ({"poll_interval": 0}, "poll_interval is 0"),
        ({"max_poll_interval": -1}, "max_poll_interval is -1"),
        ({"return_when": "SOMETIMES"}, "it must be one of ALL_COMPLETED, FIRST_COMPLETED"),
        ({"progress": {"colour": 1}}, "colour"),
    ],
)
def test_unusable_arguments_end_in_an_error_and_not_in_a_broken_triggerer(
    server: DevServer, changes: dict[str, Any], words: str
) -> None:
    """What __init__ raises would stop every other trigger too."""
    arguments = {"batch_ids": ["batch_1"], **changes}
    payload = run(lambda: Waiting(**arguments).start().end())
    assert payload["status"] == "error"
    assert words in payload["message"]
    assert payload["batches"] == dict.fromkeys(arguments["batch_ids"], "unknown")


def test_a_batch_that_the_service_does_not_know_is_an_error(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second look, and the others' statuses come along."""
    monkeypatch.setattr("airflow_provider_openai_batches.polling.wait.MISSING_TWICE_WITHIN", 0.3)
    ids = seed(server, 1)
    payload = run(lambda: Waiting([*ids, "batch_nobody"], poll_interval=0.2).start().end())
    assert payload["status"] == "error"
    assert "does not know batch 'batch_nobody' (HTTP 404" in payload["message"]
    assert payload["batches"] == {ids[0]: "in_progress", "batch_nobody": "unknown"}
    assert requests(server)["retrieve_batch"] >= 3


def test_many_batches_of_a_job_are_waited_for_together(server: DevServer) -> None:
    """By pages, and the lines speak of the whole job."""
    ids = seed(server, 30)
    job = {"batches": 40, "finished": 10, "total": 400, "completed": 90, "failed": 10, "round": 2}

    async def waits() -> dict[str, Any]:
        one = Waiting(ids, progress=job).start()
        await until(lambda: one.lines)
        for batch_id in ids:
            server.force(batch_id, status="completed")
        payload = await one.end()
        assert one.lines[-1].endswith("40 of 40 batches done, 90/400 requests, 10.0% failed, round 2")
        return payload

    assert run(waits)["message"] == "30 batches: 30 completed"
    assert requests(server)["retrieve_batch"] == 0


def test_a_pause_asks_nothing(server: DevServer) -> None:
    """No batches, an end time, and no connection needed."""
    end_time = time.time() + 0.5
    payload = run(lambda: Waiting([], conn_id="absent", end_time=end_time).start().end())
    assert payload == {"status": "finished", "message": "The pause is over.", "batches": {}}
    assert 0 <= time.time() - end_time < 0.3


@pytest.mark.parametrize("batch_id", ["batch_1", "not an id"])
@pytest.mark.parametrize(("trigger_id", "least"), [(7, 1.0), (None, 0.0)])
def test_no_event_comes_before_airflow_knows_of_the_deferral(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, batch_id: str, trigger_id: int | None, least: float
) -> None:
    """A triggerer's event, whatever it says, would fail the task; dag.test() has none of that."""
    monkeypatch.setattr(openai_batches, "SETTLED_AFTER", 1.0)
    if batch_id == "batch_1":
        (batch_id,) = seed(server, 1)
        server.force(batch_id, status="completed")

    async def waits() -> float:
        begun = time.monotonic()
        one = Waiting([batch_id], poll_interval=0.1)
        one.trigger.trigger_id = trigger_id
        assert (await one.start().end())["status"] in {"finished", "error"}
        return one.ended_at - begun

    assert least <= run(waits) < least + 0.8


def test_a_kill_while_an_event_is_held_back_cancels_what_still_runs(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two batches is over, and that is what the task waits for."""
    monkeypatch.setattr(openai_batches, "SETTLED_AFTER", 30.0)
    ended, other = seed(server, 2)
    server.force(ended, status="completed")

    async def waits() -> None:
        one = Waiting([ended, other], poll_interval=60, cancel_on_kill=True, return_when="FIRST_COMPLETED")
        one.trigger.trigger_id = 7
        one.start()
        await until(lambda: one.trigger._wait and one.trigger._wait.ending)
        await killed(one)
        assert one.payload is None

    run(waits)
    assert [status_of(server, batch_id) for batch_id in (ended, other)] == ["completed", "cancelling"]


async def killed(one: Waiting) -> Notebook:
    """Cancel as a triggerer does: the running coroutine first, then on_kill, then cleanup."""
    one.task.cancel()
    await asyncio.wait([one.task])
    await one.trigger.on_kill()
    await one.trigger.cleanup()
    return one.notebook


@pytest.mark.parametrize("count", [3, 40])
def test_a_kill_cancels_what_is_not_over(server: DevServer, count: int) -> None:
    """And logs what came of each."""
    ids = seed(server, count)

    async def waits() -> Notebook:
        one = Waiting(ids, cancel_on_kill=True).start()
        await until(lambda: len(one.lines) == count)
        server.force(ids[0], status="completed")
        await until(lambda: one.wait.statuses[ids[0]] == "completed")
        return await killed(one)

    notebook = run(waits)
    assert cancels(server) == count - 1
    assert {status_of(server, batch_id) for batch_id in ids[1:]} <= {"cancelling", "cancelled"}
    assert len([line for line in notebook.lines if line.startswith("The task was killed")]) == count - 1


def test_a_kill_of_one_leaves_the_others_alone(server: DevServer) -> None:
    """They go on by the same client."""
    ids = seed(server, 4)

    async def waits() -> None:
        several = [Waiting([batch_id], cancel_on_kill=True).start() for batch_id in ids]
        await until(lambda: all(one.lines for one in several))
        await killed(several[0])
        assert [status_of(server, batch_id) for batch_id in ids[1:]] == ["in_progress"] * 3
        for batch_id in ids[1:]:
            server.force(batch_id, status="completed")
        assert {(await one.end())["status"] for one in several[1:]} == {"finished"}

    run(waits)


def test_a_kill_before_the_first_answer_cancels_everything(server: DevServer) -> None:
    """What was never seen may run."""
    ids = seed(server, 2)
    trigger = OpenAIBatchTrigger(CONN, ids, cancel_on_kill=True)
    notebook_of(trigger)
    run(trigger.on_kill)
    assert cancels(server) == 2


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "status", "status": 503},
        {"action": "drop_before"},
        {"action": "drop_after"},
        {"action": "status", "status": 429},
    ],
    ids=str,
)
def test_a_cancel_is_repeated(server: DevServer, rule: dict[str, Any]) -> None:
    """Once lost is not given up; what a lost answer cancelled is fine too."""
    ids = seed(server, 1)
    server.faults([{"operation": "cancel_batch", **rule}])
    trigger = OpenAIBatchTrigger(CONN, ids, cancel_on_kill=True)
    notebook = notebook_of(trigger)
    run(trigger.on_kill)
    assert status_of(server, ids[0]) in {"cancelling", "cancelled"}
    assert len(notebook.lines) == 1


@pytest.mark.parametrize("status", [404, 409])
def test_a_cancel_that_is_not_needed_is_fine(server: DevServer, status: int) -> None:
    """The batch is over, or nobody knows it."""
    ids = seed(server, 1)
    server.faults([{"operation": "cancel_batch", "action": "status", "status": status}])
    trigger = OpenAIBatchTrigger(CONN, ids, cancel_on_kill=True)
    notebook = notebook_of(trigger)
    run(trigger.on_kill)
    assert cancels(server) == 1
    assert "needs no cancelling" in notebook.lines[0]


def test_a_cancel_that_hangs_is_given_up_in_time_and_said(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow waits no longer, and the user must know."""
    monkeypatch.setattr(openai_batches, "TRIGGER_CANCEL_SECONDS", 0.6)
    monkeypatch.setattr(openai_batches, "TRIGGER_REQUEST_SECONDS", 0.2)
    ids = seed(server, 1)
    server.faults([{"operation": "cancel_batch", "action": "delay", "seconds": 9, "times": None}])
    trigger = OpenAIBatchTrigger(CONN, ids, cancel_on_kill=True)
    notebook = notebook_of(trigger)
    run(trigger.on_kill)
    assert notebook.lines == [f"The task was killed, but {ids[0]} could not be cancelled: no answer"]


def test_a_kill_with_a_connection_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be cancelled then."""
    monkeypatch.setattr(openai_batches, "TRIGGER_CANCEL_SECONDS", 0.1)
    trigger = OpenAIBatchTrigger("absent", ["batch_1"], cancel_on_kill=True)
    notebook = notebook_of(trigger)
    run(trigger.on_kill)
    assert "batch_1 could not be cancelled: Airflow has no connection 'absent'" in notebook.lines[-1]


def test_a_kill_without_the_wish_cancels_nothing(server: DevServer) -> None:
    """As for a sensor, which only watches."""
    ids = seed(server, 1)
    run(OpenAIBatchTrigger(CONN, ids).on_kill)
    assert cancels(server) == 0


def test_a_restart_of_the_triggerer_cancels_nothing(server: DevServer) -> None:
    """It cancels the coroutine and calls cleanup, no more."""
    ids = seed(server, 3)

    async def waits() -> None:
        one = Waiting(ids, cancel_on_kill=True).start()
        await until(lambda: len(one.lines) == 3)
        one.task.cancel()
        await asyncio.wait([one.task])
        await one.trigger.cleanup()

    run(waits)
    assert cancels(server) == 0
    assert {status_of(server, batch_id) for batch_id in ids} == {"in_progress"}


def test_the_key_is_masked_wherever_it_comes_from(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment too, which Airflow does not know of."""
    from airflow.providers.common.compat.sdk import redact

    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    keyless = json.loads(connection(server, key="")) | {"extra": {"use_environment_key": True}}
    monkeypatch.setenv("AIRFLOW_CONN_KEYLESS", json.dumps(keyless))
    ids = seed(server, 1)

    async def waits() -> None:
        one = Waiting(ids, conn_id="keyless").start()
        await until(lambda: one.lines)
        one.task.cancel()

    run(waits)
    assert redact("it is sk-from-the-environment") == "it is ***"


def test_it_is_a_trigger_of_airflow() -> None:
    """With its own name in the list of running triggers, and no key in it."""
    trigger = OpenAIBatchTrigger("conn", ["a"])
    assert isinstance(trigger, BaseTrigger)
    assert "OpenAIBatchTrigger openai_conn_id=conn, batch_ids=['a']" in repr(trigger)
