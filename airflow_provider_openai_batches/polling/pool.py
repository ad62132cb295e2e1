"""
What a trigger holds while it waits: a place at the poller of its connection.

All triggers of one event loop that use one connection share one :class:`.poller.Poller` and its client: the
first one opens it, the last one closes it. The poller writes no line of theirs: each trigger does so itself,
because a line belongs into its own task's log.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from airflow_provider_openai_batches.polling.poller import Poller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.polling.client import SharedClient
    from airflow_provider_openai_batches.polling.wait import Line, Wait

_pollers: dict[tuple[asyncio.AbstractEventLoop, str], Poller] = {}
_closing: set[asyncio.Future[None]] = set()


class Waiter:
    """
    One wait at the poller of its connection; an async context manager.

    :param conn_id: the Airflow connection.
    :param wait: its state, which the poller's answers change.
    """

    __slots__ = ("_bug", "_conn_id", "_news", "_poller", "wait")

    def __init__(self, conn_id: str, wait: Wait) -> None:
        self.wait = wait
        self._conn_id = conn_id
        self._news: asyncio.Future[None] | None = None
        self._bug: Exception | None = None
        self._poller: Poller | None = None

    async def __aenter__(self) -> Self:
        self._poller = _enter(self._conn_id)
        self._poller.join(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._poller:
            self._poller.leave(self)
            await _release(self._poller)

    async def news(self) -> list[Line]:
        """Wait until there is something to log, or the wait has ended."""
        while not (self.wait.lines or self.wait.verdict or self._bug):
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._bug:
            raise self._bug
        lines, self.wait.lines = self.wait.lines, []
        return lines

    def saw(self, batch: Batch) -> None:
        """Take a whole Batch object."""
        self._take(lambda now: self.wait.saw(batch, now))

    def failed(self, error: Exception, batch_id: str | None = None) -> None:
        """Take the failure of a batch's retrieve, or of all that was asked."""
        self._take(lambda now: self.wait.failed(error, now, batch_id))

    def tick(self) -> None:
        """Look at the clock."""
        self._take(self.wait.tick)

    def _take(self, change: Callable[[float], None]) -> None:
        """Change the state; what is wrong with this wait is no other's trouble."""
        try:
            change(time.time())
        except Exception as error:  # noqa: BLE001 - raised again in this wait's own trigger
            self._bug = error
        if (self.wait.lines or self.wait.verdict or self._bug) and self._news and not self._news.done():
            self._news.set_result(None)


@asynccontextmanager
async def borrow(conn_id: str) -> AsyncIterator[SharedClient]:
    """Use the client that the waiters of a connection share."""
    poller = _enter(conn_id)
    try:
        yield poller.client
    finally:
        await _release(poller)


def _enter(conn_id: str) -> Poller:
    """The connection's poller on the running loop, for one user more."""
    for key in [key for key in _pollers if key[0].is_closed()]:
        del _pollers[key]
    key = (asyncio.get_running_loop(), conn_id)
    poller = _pollers.get(key)
    if poller is None:
        poller = _pollers[key] = Poller(conn_id)
    poller.users += 1
    return poller


async def _release(poller: Poller) -> None:
    """One user less; the last one closes the client, even if it is cancelled meanwhile."""
    poller.users -= 1
    if poller.users:
        return
    _pollers.pop((asyncio.get_running_loop(), poller.conn_id), None)
    closing = asyncio.ensure_future(poller.aclose())
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    await asyncio.shield(closing)
