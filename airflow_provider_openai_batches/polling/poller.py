"""Asks for the batches of all waiters of one connection: what is due, in rounds, by the fewest requests."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.polling.client import SharedClient
from airflow_provider_openai_batches.polling.deadlines import LONGEST_SLEEP, Deadlines
from airflow_provider_openai_batches.polling.lister import Pages, Stop
from airflow_provider_openai_batches.polling.schedule import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.polling.schedule import Listener

log = logging.getLogger(__name__)

# Waits that begin together are asked for together.
GATHER = 0.05
GATHER_AT_MOST = 1.0
# So many retrieves are done before the poller looks again at what is most urgent.
RETRIEVES_AT_ONCE = 50
# So many failures in a row say that it is the service, not a batch.
STRIKES = 5
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
        self._strikes = 0
        self._stop = Stop()
        self._pages = Pages(self.client, self._entries, self._stop, self._deliver, self._retrieve)

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
            self._pages.chart.forget(entry.batch_id)

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

    def _due(self, now: float) -> list[Entry]:
        """The most urgent first."""
        return sorted(
            (entry for entry in self._entries.values() if entry.due <= now), key=lambda entry: entry.due
        )

    async def _round(self) -> None:
        self._strikes = 0
        self._stop.forget()
        try:
            await self.client.refresh_now_and_then()
            await self.client.open()
        except OpenAIBatchesError as error:
            await self._fail_all(error)
            return
        now = time.monotonic()  # what becomes due meanwhile may have a page in the next round
        await self._pages.ask(now)
        if not self._stop.by:
            rest = [entry.batch_id for entry in self._due(now)[:RETRIEVES_AT_ONCE]]
            random.shuffle(rest)  # so that those that fail are not always the first
            await self._stop.each(rest, self._retrieve)
        if self._stop.by or self._stop.is_refusal:
            await self._stopped(self._stop.by)

    async def _stopped(self, error: OpenAIBatchesError | None) -> None:
        """After a refusal read the connection again: a new key is tried before anybody is told."""
        if self._stop.is_refusal:
            try:
                if await self.client.refresh():
                    return
            except OpenAIBatchesError as newer:
                error = error and newer
        if error:
            await self._fail_all(error)

    async def _fail_all(self, error: Exception) -> None:
        entries = self._due(time.monotonic())
        listeners = dict.fromkeys(listener for entry in entries for listener in entry.listeners)
        for number, listener in enumerate(listeners, 1):
            listener.failed(error)
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
        for entry in entries:
            if entry.listeners:
                entry.schedule()

    # -- requests --------------------------------------------------------------------------------------------

    async def _retrieve(self, batch_id: str) -> None:
        if batch_id not in self._entries:
            return
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
        self._stop.is_refusal = self._stop.is_refusal or status in {401, 403}
        self._strikes = 0 if status in {403, 404} else self._strikes + 1
        if status == 401 or self._strikes >= STRIKES:  # noqa: PLR2004 - HTTP
            self._stop.by = error
        elif entry := self._entries.get(batch_id):
            for listener in entry.listeners:
                listener.failed(error, batch_id)
            entry.schedule()

    def _deliver(self, batch: Batch) -> None:
        entry = self._entries.get(batch.id)
        if entry is None:
            return
        entry.created_at = batch.created_at
        for listener in entry.listeners:
            listener.saw(batch)
            self._deadlines.heed(listener)
        self._drop(entry, [listener for listener in entry.listeners if batch.id not in listener.wait.pending])
        if entry.listeners:
            entry.schedule()
