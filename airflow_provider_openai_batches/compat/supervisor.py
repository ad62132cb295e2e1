"""Questions to the triggerer's supervisor, which must not be cut off in the middle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

T = TypeVar("T")
_open: set[asyncio.Task[Any]] = set()


async def uncut(question: Coroutine[Any, Any, T], within: float) -> T:
    """
    Await an answer, and let the exchange go to its end whatever becomes of the one who asked.

    Up to Airflow 3.1 all triggers ask the supervisor over one stream, in turns. If one of them is cancelled
    between its question and the answer, the next one reads an answer that is not its own, and the whole
    triggerer ends.

    :param within: seconds after which nobody waits for the answer any more.
    :raises TimeoutError: if they are over.
    """
    task = asyncio.get_running_loop().create_task(question)
    _open.add(task)
    task.add_done_callback(_done)
    async with asyncio.timeout(within):
        return await asyncio.shield(task)


def _done(task: asyncio.Task[Any]) -> None:
    _open.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain when nobody waited for it
