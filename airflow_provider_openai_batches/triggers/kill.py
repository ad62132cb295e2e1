"""
How a trigger reacts when its deferred task is stopped.

Since Airflow 3.3 the triggerer calls ``on_kill()`` of a trigger whose task was killed, but also when the task
was cleared, or when the trigger moved to another triggerer. Earlier versions only cancel the coroutine, as
they also do when the triggerer itself ends. So a trigger asks for the state of its task on every version.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.protocol import CLOSING
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
    Act on the cancellation of a trigger; since Airflow 3.3 ``on_kill()`` does that instead.

    :param ti: the task instance that the triggerer gave to the trigger.
    :param cancel: cancels the trigger's batches.
    """
    if not TRIGGERS_HAVE_ON_KILL and not _triggerer_is_ending():
        await _to_its_end(_decide(Stop.TRIGGER_CANCELLED, ti, cancel))


async def on_kill(ti: Any, cancel: Cancel) -> None:
    """Act on Airflow's call of ``on_kill()``; the parameters are those of :func:`on_cancellation`."""
    await _to_its_end(_decide(Stop.TRIGGER_KILLED, ti, cancel))


async def _decide(stop: Stop, ti: Any, cancel: Cancel) -> None:
    if is_to_be_cancelled(stop, await atask_state(ti, TRIGGER_ASK_SECONDS)):
        await cancel()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """
    Finish the work, although the triggerer cancels the caller again every second.

    :raises asyncio.CancelledError: after the work, if there was a cancellation in the meantime.
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
    """Whether the triggerer itself is ending: it then cancels all tasks of its loop at once."""
    loop = asyncio.get_running_loop()
    if all(task.cancelling() or task.get_name() == CLOSING for task in asyncio.all_tasks()):
        _ending.add(loop)
    return loop in _ending
