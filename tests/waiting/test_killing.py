"""What a cancelled trigger does: ask for its task's state, and cancel only what nobody waits for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from waiting_room import Waiting, run, seed, stop, until

from airflow_provider_openai_batches.compat import supervisor as compat
from airflow_provider_openai_batches.compat.supervisor import uncut
from airflow_provider_openai_batches.triggers import kill

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer


class Supervisor:
    """Stands for the triggerer's supervisor: ``states`` is its answer, or the error that it raises."""

    def __init__(self) -> None:
        self.states: Any = {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answers = 0
        self.asked: list[dict[str, Any]] = []

    def get_task_states(self, **question: Any) -> Any:
        self.asked.append(question)
        self.may_answer.wait(10)
        self.answers += 1
        if isinstance(self.states, Exception):
            raise self.states
        return {"run": self.states} if isinstance(self.states, dict) else self.states


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """It answers where Airflow's task SDK would ask."""
    standing_in = Supervisor()
    module = SimpleNamespace(RuntimeTaskInstance=standing_in)
    monkeypatch.setitem(sys.modules, "airflow.sdk.execution_time.task_runner", module)
    monkeypatch.setattr(compat, "GATHER_SECONDS", 0.02)
    monkeypatch.setattr(compat, "_warm", ["warm"])  # the first trigger of a process asks once more
    return standing_in


@pytest.fixture
def before_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "TRIGGERS_HAVE_ON_KILL", False)


def waiting(ids: list[str], map_index: int = -1, **kwargs: Any) -> Waiting:
    one = Waiting(ids, cancel_on_kill=True, **kwargs)
    ti: Any = SimpleNamespace(  # what a triggerer gives to a trigger, as far as it is read
        dag_id="dag", run_id="run", task_id="task", map_index=map_index, task=None, try_number=1
    )
    one.trigger.task_instance = ti
    return one


def cancels(server: DevServer) -> int:
    return int(server.stats()["requests"].get("cancel_batch", 0))


async def cancelled(one: Waiting) -> None:
    """Cancel the coroutine as a triggerer before 3.3 does: again and again until it has ended."""
    one.start()
    await until(lambda: one.lines)
    assert one.task is not None
    while not one.task.done():
        one.task.cancel()
        await asyncio.wait([one.task], timeout=0.05)
    assert one.task.cancelled()


@pytest.mark.usefixtures("before_3_3")
@pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed", "removed"])
def test_a_task_that_is_over_is_waited_for_by_nobody(
    server: DevServer, supervisor: Supervisor, state: str
) -> None:
    """Its batch is cancelled, though the trigger is cancelled again meanwhile."""
    ids = seed(server, 1)
    supervisor.states = {"task": state}
    server.faults([{"operation": "cancel_batch", "action": "delay", "seconds": 0.3}])
    run(lambda: cancelled(waiting(ids)))
    assert cancels(server) == 1
    assert supervisor.asked == [{"dag_id": "dag", "task_ids": ["task"], "run_ids": ["run"]}]


@pytest.mark.usefixtures("before_3_3")
@pytest.mark.parametrize(
    "state", [None, "scheduled", "queued", "running", "restarting", "deferred", "up_for_retry", "a new one"]
)
def test_a_task_that_goes_on_keeps_its_batch(
    server: DevServer, supervisor: Supervisor, state: str | None
) -> None:
    """Cleared, resumed, taken over: its next try or another trigger takes the batch up."""
    supervisor.states = {"task": state}
    run(lambda: cancelled(waiting(seed(server, 1))))
    assert len(supervisor.asked) == 1
    assert cancels(server) == 0


@pytest.mark.usefixtures("before_3_3")
def test_a_deleted_run_keeps_nothing(server: DevServer, supervisor: Supervisor) -> None:
    """Its task is not in the answer."""
    run(lambda: cancelled(waiting(seed(server, 1))))
    assert cancels(server) == 1


@pytest.mark.usefixtures("before_3_3")
def test_of_a_mapped_task_only_its_own_index_counts(server: DevServer, supervisor: Supervisor) -> None:
    """Triggers that are cancelled together ask Airflow only once."""
    ids = seed(server, 3)
    supervisor.states = {"task_0": "deferred", "task_1": "failed", "task_2": "failed"}

    async def waits() -> None:
        several = [waiting([batch_id], map_index).start() for map_index, batch_id in enumerate(ids)]
        await until(lambda: all(one.lines for one in several))
        tasks = [one.task for one in several if one.task]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(waits)
    statuses = [server.service.find_batch(batch_id).wire.status for batch_id in ids]
    assert statuses[0] == "in_progress"
    assert set(statuses[1:]) <= {"cancelling", "cancelled"}
    assert len(supervisor.asked) == 1


@pytest.mark.parametrize("states", [RuntimeError("no answer"), None, "nonsense"], ids=repr)
@pytest.mark.parametrize("is_told", [False, True])
def test_an_unknown_state(
    server: DevServer,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    states: Any,
    *,
    is_told: bool,
) -> None:
    """Before Airflow 3.3 this does not prove a kill; since then Airflow itself says that there was one."""
    monkeypatch.setattr(kill, "TRIGGERS_HAVE_ON_KILL", is_told)
    supervisor.states = states

    async def waits() -> None:
        one = waiting(seed(server, 1))
        await cancelled(one)
        if is_told:
            await one.trigger.on_kill()

    run(waits)
    assert cancels(server) == int(is_told)


@pytest.mark.usefixtures("before_3_3")
def test_an_answer_that_does_not_come(
    server: DevServer, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for only so long, and nothing is cancelled without it."""
    monkeypatch.setattr(kill, "TRIGGER_ASK_SECONDS", 0.1)
    supervisor.states = {"task": "failed"}
    supervisor.may_answer.clear()

    async def waits() -> None:
        await cancelled(waiting(seed(server, 1)))
        assert supervisor.asked
        assert supervisor.answers == 0
        supervisor.may_answer.set()
        await until(lambda: supervisor.answers)

    run(waits)
    assert cancels(server) == 0


@pytest.mark.parametrize(("state", "expected"), [("deferred", 0), ("scheduled", 0), (None, 0), ("failed", 1)])
def test_an_on_kill_of_a_task_that_goes_on(
    server: DevServer, supervisor: Supervisor, state: str | None, expected: int
) -> None:
    """Airflow 3.3 calls it for a cleared task too, and for a trigger that another triggerer took over."""
    supervisor.states = {"task": state}
    one = waiting(seed(server, 1))
    run(one.trigger.on_kill)
    assert cancels(server) == expected


def test_an_on_kill_that_is_cut_off_goes_on(server: DevServer, supervisor: Supervisor) -> None:
    """The triggerer of Airflow 3.3 cancels on_kill after a second; the batch is cancelled nevertheless."""
    supervisor.states = {"task": "failed"}
    server.faults([{"operation": "cancel_batch", "action": "delay", "seconds": 0.3}])
    one = waiting(seed(server, 1))

    async def waits() -> None:
        task = asyncio.ensure_future(one.trigger.on_kill())
        for _ in range(3):
            await asyncio.sleep(0.05)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(waits)
    assert cancels(server) == 1


@pytest.mark.usefixtures("before_3_3")
def test_a_triggerer_that_ends_asks_nothing(server: DevServer, supervisor: Supervisor) -> None:
    """Its loop cancels everything at once, so this is not a kill, whatever the states are."""
    supervisor.states = {"task": "failed"}
    several = [waiting([batch_id]) for batch_id in seed(server, 3)]

    async def triggerer() -> None:
        for one in several:
            one.start()
        await until(lambda: all(one.lines for one in several))

    asyncio.run(triggerer())
    assert all(one.task.cancelled() for one in several if one.task)
    assert supervisor.asked == []
    assert cancels(server) == 0


def test_a_question_is_not_cut_off() -> None:
    """The exchange with Airflow ends in order, even if the caller is cancelled or times out."""
    ends: list[str] = []

    async def exchange(name: str) -> str:
        await asyncio.sleep(0.1)
        ends.append(name)
        raise LookupError(name)

    async def asks() -> None:
        with pytest.raises(TimeoutError):
            await uncut(exchange("late"), 0.01)
        task = asyncio.ensure_future(uncut(exchange("cancelled"), 9))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(LookupError, match="heard"):
            await uncut(exchange("heard"), 9)

    run(asks)
    assert sorted(ends) == ["cancelled", "heard", "late"]


@pytest.mark.parametrize(("in_a_triggerer", "cancels_on_kill"), [(True, True), (True, False), (False, True)])
def test_the_first_wait_of_a_triggerer_loads_what_a_kill_needs(
    server: DevServer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    in_a_triggerer: bool,
    cancels_on_kill: bool,
) -> None:
    """One question, in the background, and only where a kill may ask one."""
    asked: list[tuple[str, ...]] = []

    def answer(*task: str) -> dict[str, str | None]:
        asked.append(task)
        return {}

    monkeypatch.setattr(compat, "_warm", [])
    monkeypatch.setattr(compat, "ask_for_states", answer)
    waits = [Waiting([name], cancel_on_kill=cancels_on_kill) for name in seed(server, 2)]
    for number, one in enumerate(waits):
        one.trigger.trigger_id = number if in_a_triggerer else None
        ti: Any = SimpleNamespace(dag_id="d", run_id="r", task_id=str(number), map_index=-1)
        one.trigger.task_instance = ti
    is_expected = in_a_triggerer and cancels_on_kill
    before_the_stop: list[tuple[str, ...]] = []

    async def begin() -> None:
        for one in waits:
            one.start()
        await until(lambda: all(one.lines for one in waits) and len(asked) == is_expected)
        before_the_stop.extend(asked)
        stop(waits)
        for one in waits:
            await one.ended()

    run(begin)
    assert [task[:2] for task in before_the_stop] == [("d", "r")] * is_expected


def test_a_question_for_a_state_is_what_a_kill_asks() -> None:
    """The module that is loaded before has the method on each Airflow."""
    code = (
        "from importlib import import_module; from airflow_provider_openai_batches.compat import supervisor;"
        "print(hasattr(import_module(supervisor._STATES).RuntimeTaskInstance, 'get_task_states'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "True"
