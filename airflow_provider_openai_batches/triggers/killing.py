"""
What tells a kill of a deferred task from all else that ends its trigger.

From Airflow 3.3 on the triggerer calls ``on_kill`` of a trigger whose task was killed; but also when the task
was cleared, or when the trigger went over to another triggerer. Before, it only cancels the coroutine, as it
does at its own end. So the task's state is asked for, on every Airflow: batches are cancelled only for a task
that is over or deleted. One that goes on takes them up, in its next try or in another triggerer.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger
from asgiref.sync import sync_to_async

from airflow_provider_openai_batches.compat import task_state
from airflow_provider_openai_batches.compat.supervisor import uncut

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger

AIRFLOW_CALLS_ON_KILL = hasattr(BaseTrigger, "on_kill")
# A user kills the tasks of a run together: one question serves those that are cancelled within this time.
GATHER = 0.2
ASK_WITHIN = 20.0
KILL_WITHIN = 50.0

_asking: dict[tuple[Any, ...], asyncio.Task[dict[str, str | None]]] = {}
_working: set[asyncio.Task[None]] = set()
_ending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


async def after_cancellation(trigger: OpenAIBatchTrigger) -> None:
    """Before Airflow 3.3: cancel the batches of a cancelled trigger if its task is certainly over."""
    if trigger.cancel_on_kill and not AIRFLOW_CALLS_ON_KILL and not _is_ending():
        await _through(_kill(trigger, when_unknown=False))


async def on_kill(trigger: OpenAIBatchTrigger) -> None:
    """From Airflow 3.3 on: cancel the batches unless the task certainly goes on."""
    if trigger.cancel_on_kill:
        await _through(_kill(trigger, when_unknown=True))


async def _kill(trigger: OpenAIBatchTrigger, *, when_unknown: bool) -> None:
    over = await is_over(trigger.task_instance)
    if over or (over is None and when_unknown):
        await trigger.cancel_batches()


async def is_over(ti: Any) -> bool | None:
    """
    Whether a task is over or deleted, so that nobody waits for its batches any more.

    :param ti: the task instance that the triggerer gave to the trigger.
    :return: None if that cannot be known.
    """
    if ti is None:
        return None
    try:
        states = await uncut(_states(ti.dag_id, ti.run_id, ti.task_id), ASK_WITHIN)
        return states.get(task_state.name_among(ti), "removed") in task_state.OVER
    except Exception:  # noqa: BLE001 - Airflow's releases differ in what they raise; none of it is an answer
        return None


async def _states(*which: str) -> dict[str, str | None]:
    """The states of a task in a run, by task id or, where it is mapped, ``task_id_map_index``."""
    key = (asyncio.get_running_loop(), *which)
    if key not in _asking:
        _asking[key] = asyncio.get_running_loop().create_task(_ask_soon(key))
    return await _asking[key]


async def _ask_soon(key: tuple[Any, ...]) -> dict[str, str | None]:
    try:
        await asyncio.sleep(GATHER)
    finally:
        # An answer may be older than the kill of one who comes later.
        del _asking[key]
    return await sync_to_async(task_state.ask)(*key[1:])


async def _through(work: Coroutine[Any, Any, None]) -> None:
    """
    Bring work to its end although the triggerer cancels whoever does it again every second.

    :raises asyncio.CancelledError: after the work, if there was a cancellation meanwhile.
    """
    task = asyncio.get_running_loop().create_task(work)
    _working.add(task)
    task.add_done_callback(_working.discard)
    end, cancelled = time.monotonic() + KILL_WITHIN, None
    while not task.done() and time.monotonic() < end:
        try:
            await asyncio.wait({task}, timeout=end - time.monotonic())
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    if task.done():
        await task


def _is_ending() -> bool:
    """Whether it is the triggerer that ends: then the loop's tasks are cancelled, all at once."""
    loop = asyncio.get_running_loop()
    if all(task.cancelling() for task in asyncio.all_tasks()):
        _ending.add(loop)
    return loop in _ending
