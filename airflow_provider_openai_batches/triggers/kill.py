"""
A stop of a deferred task, as its trigger sees it.

From Airflow 3.3 on the triggerer calls ``on_kill()`` of a trigger whose task was killed, but also when the
task was cleared, or when the trigger went over to another triggerer. Before, it only cancels the coroutine,
as it does when it ends itself. So the task's state is asked for on every version.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.compat.supervisor import atask_state
from airflow_provider_openai_batches.compat.versions import TRIGGERS_HAVE_ON_KILL
from airflow_provider_openai_batches.idempotency.cancel import (
    TRIGGER_ASK_SECONDS,
    TRIGGER_SECONDS,
    Stop,
    is_to_be_cancelled,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Cancel = Callable[[], Awaitable[None]]

_working: set[asyncio.Task[None]] = set()
_ending: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


async def on_cancellation(ti: Any, cancel: Cancel) -> None:
    """
    Act on the cancellation of a trigger; from Airflow 3.3 on ``on_kill()`` does that.

    :param ti: the task instance that the triggerer gave to the trigger.
    :param cancel: cancels the trigger's batches.
    """
    if not TRIGGERS_HAVE_ON_KILL and not _triggerer_is_ending():
        await _to_its_end(_decide(Stop.TRIGGER_CANCELLED, ti, cancel))


async def on_kill(ti: Any, cancel: Cancel) -> None:
    """As :func:`on_cancellation`, for Airflow's call of ``on_kill()``."""
    await _to_its_end(_decide(Stop.TRIGGER_KILLED, ti, cancel))


async def _decide(stop: Stop, ti: Any, cancel: Cancel) -> None:
    if is_to_be_cancelled(stop, await atask_state(ti, TRIGGER_ASK_SECONDS)):
        await cancel()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """
    Finish the work, although the triggerer cancels the one who does it again every second.

    :raises asyncio.CancelledError: after the work, if there was a cancellation meanwhile.
    """
    task = asyncio.get_running_loop().create_task(work)
    _working.add(task)
    task.add_done_callback(_working.discard)
    end, cancelled = time.monotonic() + TRIGGER_SECONDS, None
    while not task.done() and time.monotonic() < end:
        try:
            await asyncio.wait({task}, timeout=end - time.monotonic())
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    if task.done():
        await task


def _triggerer_is_ending() -> bool:
    """Whether the triggerer itself ends: then all tasks of its loop are cancelled at once."""
    loop = asyncio.get_running_loop()
    if all(task.cancelling() for task in asyncio.all_tasks()):
        _ending.add(loop)
    return loop in _ending
