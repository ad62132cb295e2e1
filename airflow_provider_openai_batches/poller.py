"""Asks for the batches of all waiters of one connection: what is due, in rounds, by the fewest requests."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from typing import TYPE_CHECKING, Protocol

from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.rounds import Standing, Walk, shown_on
from airflow_provider_openai_batches.shared_client import IN_FLIGHT, SharedClient

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.models import Batch, BatchPage
    from airflow_provider_openai_batches.polling import Wait

log = logging.getLogger(__name__)

# The first interval is cut by up to this part, so that waits that began together do not stay together; and
# what is due within this part of its interval is taken along when a page may show it.
SPREAD = 0.25
# Waits that begin together are asked for together.
GATHER = 0.05
GATHER_AT_MOST = 0.3
# So many retrieves are done before the poller looks again at what is most urgent.
RETRIEVES_AT_ONCE = 50
# So many failures in a row say that it is the service, not a batch.
STRIKES = 5
# The last look is taken so long before the deadline.
LAST_LOOK = 1.0
# A page that fails in the middle of a walk is asked for once more.
PAGE_AGAIN_AFTER = 0.5
TOLD_AT_ONCE = 100
AFTER_A_BUG = 5.0


class Listener(Protocol):
    """What the poller knows of a waiter."""

    wait: Wait

    def saw(self, batch: Batch) -> None: ...
    def failed(self, error: Exception, batch_id: str | None = None) -> None: ...


class Entry:
    """A batch that is waited for; ``due`` is on the monotonic clock, ``interval`` is what led to it."""

    __slots__ = ("batch_id", "created_at", "due", "interval", "is_unlisted", "listeners", "number")

    def __init__(self, batch_id: str, number: int) -> None:
        self.batch_id = batch_id
        self.number = number
        self.created_at: int | None = None
        self.due = 0.0
        self.interval: float | None = None
        self.is_unlisted = False
        self.listeners: list[Listener] = []

    def schedule(self) -> None:
        """Set when to ask again, by the most impatient of those who wait."""
        now = time.time()
        delay = min(delay_of(listener.wait, self.batch_id, now) for listener in self.listeners)
        part = random.uniform(1 - SPREAD, 1) if self.interval is None else 1.0  # noqa: S311 - no secret
        self.interval = delay
        self.due = time.monotonic() + delay * part


def delay_of(wait: Wait, batch_id: str, now: float) -> float:
    """Seconds until one wait wants its batch asked for: its interval, or a last look before the deadline."""
    delay, left = wait.next_in(batch_id, now), wait.deadline - now
    return left - LAST_LOOK if LAST_LOOK < left < delay + LAST_LOOK else delay


class Poller:
    """
    The poller of one connection; its task begins with the first waiter.

    :param conn_id: the Airflow connection.
    """

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self.client = SharedClient(conn_id)
        self.users = 0
        self._entries: dict[str, Entry] = {}
        self._arrivals = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._standing = Standing()
        self._strikes = 0
        self._stopped_by: OpenAIBatchesError | None = None
        self._is_refused = False

    def join(self, listener: Listener) -> None:
        """Poll for what the listener's wait is pending for, the first time at once."""
        for batch_id in listener.wait.pending:
            entry = self._entries.setdefault(batch_id, Entry(batch_id, self._arrivals))
            entry.listeners.append(listener)
            entry.due = 0.0
            self._arrivals += 1
        self._arrived.set()
        if self._task is None:
            # In a context of its own: the first trigger's names that task's log, and others outlive it.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"poller of {self.conn_id}", context=contextvars.Context()
            )

    def leave(self, listener: Listener) -> None:
        for batch_id in listener.wait.pending:
            entry = self._entries.get(batch_id)
            if entry and listener in entry.listeners:
                self._drop(entry, [listener])

    async def aclose(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.client.aclose()

    def _drop(self, entry: Entry, listeners: Iterable[Listener]) -> None:
        for listener in listeners:
            entry.listeners.remove(listener)
        if not entry.listeners:
            self._entries.pop(entry.batch_id, None)

    # -- rounds ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._sleep_until_due()
            try:
                await self._round()
            except Exception as error:
                log.exception("A round of polling on connection %s broke off", self.conn_id)
                await self._fail_all(TransportError(f"A round of polling broke off ({error!r})"))
                await asyncio.sleep(AFTER_A_BUG)

    async def _sleep_until_due(self) -> None:
        while True:
            if self._arrived.is_set():
                await self._gather()
            due = min((entry.due for entry in self._entries.values()), default=float("inf"))
            if due <= time.monotonic():
                return
            try:
                async with asyncio.timeout(min(due - time.monotonic(), 3_600.0)):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    async def _gather(self) -> None:
        for _ in range(int(GATHER_AT_MOST / GATHER)):
            self._arrived.clear()
            await asyncio.sleep(GATHER)
            if not self._arrived.is_set():
                return

    def _due(self) -> list[Entry]:
        """The most urgent first."""
        now = time.monotonic()
        return sorted(
            (entry for entry in self._entries.values() if entry.due <= now), key=lambda entry: entry.due
        )

    async def _round(self) -> None:
        self._strikes, self._stopped_by, self._is_refused = 0, None, False
        try:
            await self.client.refresh_now_and_then()
            await self.client.open()
        except OpenAIBatchesError as error:
            await self._fail_all(error)
            return
        walk = await self._walk(self._worth_listing())
        if not self._stopped_by:
            rest = [entry.batch_id for entry in self._due()[:RETRIEVES_AT_ONCE]]
            random.shuffle(rest)  # so that those that fail are not always the first
            await asyncio.gather(*(self._retrieve_each(rest) for _ in range(IN_FLIGHT)))
        if self._stopped_by or self._is_refused:
            await self._stop(self._stopped_by)
        elif walk:
            self._standing.learn(walk)

    def _worth_listing(self) -> list[Entry]:
        """What is due or nearly so, if it is so much that pages may be the shorter way; the newest first."""
        now = time.monotonic()
        wanted = [
            entry
            for entry in self._entries.values()
            if not entry.is_unlisted and entry.due - now <= (entry.interval or 0.0) * SPREAD
        ]
        if not self._standing.is_worth(len(wanted)):
            return []
        return sorted(
            wanted, key=lambda entry: (entry.created_at or float("inf"), entry.number), reverse=True
        )

    async def _stop(self, error: OpenAIBatchesError | None) -> None:
        """After a refusal read the connection again: a new key is tried before anybody is told."""
        if self._is_refused:
            try:
                if await self.client.refresh():
                    return
            except OpenAIBatchesError as newer:
                error = error and newer
        if error:
            await self._fail_all(error)

    async def _fail_all(self, error: Exception) -> None:
        entries = self._due()
        listeners = dict.fromkeys(listener for entry in entries for listener in entry.listeners)
        for number, listener in enumerate(listeners, 1):
            listener.failed(error)
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
        for entry in entries:
            if entry.listeners:
                entry.schedule()

    # -- requests --------------------------------------------------------------------------------------------

    async def _walk(self, entries: list[Entry]) -> Walk | None:
        if not entries:
            return None
        walk = Walk(entry.batch_id for entry in entries)
        start = None if self._standing.from_top else walk.jump()
        while True:
            if start:
                walk.left.pop(start)
                await self._retrieve(start)
            saved = walk.saved
            cursor = await self._page(walk, start)
            walk.began(start, saved)
            if cursor:
                await asyncio.gather(*(self._lane(walk, lane) for lane in walk.lanes(cursor)))
            start = None if self._stopped_by else walk.jump()
            if start is None:
                break
        for batch_id in () if self._stopped_by else walk.left:
            if entry := self._entries.get(batch_id):
                entry.is_unlisted = True
        return walk

    async def _lane(self, walk: Walk, cursor: str | None) -> None:
        while cursor and not self._stopped_by:
            cursor = await self._page(walk, cursor)

    async def _page(self, walk: Walk, after: str | None) -> str | None:
        """Ask for a page and hand it out; the next page's cursor, or None if there is none to ask for."""
        try:
            page = await self._list(after)
        except OpenAIBatchesError as error:
            if isinstance(error, APIError) and error.status in {401, 429}:
                self._stopped_by = error
                self._is_refused = error.status == 401  # noqa: PLR2004 - HTTP
            walk.broken = walk.broken or after is None
            return None
        for batch in shown_on(page):
            self._deliver(batch)
        return walk.take(page)

    async def _list(self, after: str | None) -> BatchPage:
        try:
            return await self.client.list_batches(after)
        except OpenAIBatchesError as error:
            if isinstance(error, APIError) and error.status < 500:  # noqa: PLR2004 - HTTP
                raise
        await asyncio.sleep(PAGE_AGAIN_AFTER)
        return await self.client.list_batches(after)

    async def _retrieve_each(self, batch_ids: list[str]) -> None:
        while batch_ids and not self._stopped_by:
            await self._retrieve(batch_ids.pop())

    async def _retrieve(self, batch_id: str) -> None:
        if batch_id not in self._entries:
            return
        self._standing.retrieved()
        try:
            batch = await self.client.retrieve_batch(batch_id)
        except OpenAIBatchesError as error:
            self._note(error, batch_id)
        else:
            self._strikes = 0
            self._deliver(batch)

    def _note(self, error: OpenAIBatchesError, batch_id: str) -> None:
        """A failure is the batch's own, unless it says something about the connection or the service."""
        status = error.status if isinstance(error, APIError) else None
        self._is_refused = self._is_refused or status in {401, 403}
        self._strikes = 0 if status in {403, 404} else self._strikes + 1
        if status == 401 or self._strikes >= STRIKES:  # noqa: PLR2004 - HTTP
            self._stopped_by = error
        elif entry := self._entries.get(batch_id):
            for listener in entry.listeners:
                listener.failed(error, batch_id)
            entry.schedule()

    def _deliver(self, batch: Batch) -> None:
        entry = self._entries.get(batch.id)
        if entry is None:
            return
        entry.created_at, entry.is_unlisted = batch.created_at, False
        for listener in entry.listeners:
            listener.saw(batch)
        self._drop(entry, [listener for listener in entry.listeners if batch.id not in listener.wait.pending])
        if entry.listeners:
            entry.schedule()
