"""Asks for the batches of all waiters of one connection: what is due, in rounds, by the fewest requests."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from typing import TYPE_CHECKING

from airflow_provider_openai_batches import metrics
from airflow_provider_openai_batches.deadlines import LONGEST_SLEEP, Deadlines
from airflow_provider_openai_batches.entry import SPREAD, Entry
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.rounds import Standing, Walk, shown_on
from airflow_provider_openai_batches.shared_client import IN_FLIGHT, SharedClient

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.entry import Listener
    from airflow_provider_openai_batches.models import Batch, BatchPage

log = logging.getLogger(__name__)

# Waits that begin together are asked for together.
GATHER = 0.05
GATHER_AT_MOST = 1.0
# So many retrieves are done before the poller looks again at what is most urgent.
RETRIEVES_AT_ONCE = 50
# So many failures in a row say that it is the service, not a batch.
STRIKES = 5
# A page that fails in the middle of a walk is asked for once more.
PAGE_AGAIN_AFTER = 0.5
TOLD_AT_ONCE = 100
AFTER_A_BUG = 5.0


class Poller:
    """
    The poller of one connection; its task begins with the first waiter.

    :param conn_id: the Airflow connection.
    """

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self.client = SharedClient(conn_id)
        self.users = 0
        self._deadlines = Deadlines()
        self._entries: dict[str, Entry] = {}
        self._arrivals = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._standing = Standing()
        self._strikes = 0
        self._stopped_by: OpenAIBatchesError | None = None
        self._is_refused = False

    def join(self, listener: Listener) -> None:
        """Poll for what the listener's wait is pending for, the first time at once; tell it its deadline."""
        self._deadlines.add(listener)
        for batch_id in listener.wait.pending:
            entry = self._entries.setdefault(batch_id, Entry(batch_id, self._arrivals))
            entry.listeners.append(listener)
            entry.due = 0.0
            self._arrivals += 1
        self._arrived.set()
        if self._task is None and self._entries:
            # In a context of its own: the first trigger's names that task's log, and others outlive it.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"poller of {self.conn_id}", context=contextvars.Context()
            )

    def leave(self, listener: Listener) -> None:
        self._deadlines.discard(listener)
        for batch_id in listener.wait.pending:
            entry = self._entries.get(batch_id)
            if entry and listener in entry.listeners:
                self._drop(entry, [listener])

    async def aclose(self) -> None:
        self._deadlines.close()
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
        # While others arrive; a failure comes again in the round, and is told there.
        with contextlib.suppress(OpenAIBatchesError):
            await self.client.open()
        while True:
            await self._sleep_until_due()
            try:
                await self._round()
            except Exception as error:
                log.exception("A round of polling on connection %s broke off", self.conn_id)
                await self._fail_all(TransportError(f"A round of polling broke off ({error!r})"))
                await asyncio.sleep(AFTER_A_BUG)
            finally:
                metrics.poll_round(*self.client.count(), self.conn_id)
                metrics.waits(len(self._entries), self.conn_id)

    async def _sleep_until_due(self) -> None:
        while True:
            if self._arrived.is_set():
                await self._gather()
            due = min((entry.due for entry in self._entries.values()), default=float("inf"))
            if due <= time.monotonic():
                return
            try:
                async with asyncio.timeout(min(due - time.monotonic(), LONGEST_SLEEP)):
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
            self._deadlines.heed(listener)
        self._drop(entry, [listener for listener in entry.listeners if batch.id not in listener.wait.pending])
        if entry.listeners:
            entry.schedule()
