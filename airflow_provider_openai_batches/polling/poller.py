"""
Polls the batches that triggers wait for.

All triggers on one event loop that use one connection share a :class:`Poller`: the first one starts it, and
the last one ends it. It writes nothing to a task's log: only what a trigger logs itself gets there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from airflow_provider_openai_batches.api.retry import is_refusal
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError, TransportError
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.polling.client import borrow, for_each, on_this_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.polling.client import LoopAndConnection, SharedClient
    from airflow_provider_openai_batches.polling.lister import Lister
    from airflow_provider_openai_batches.polling.wait import Line, Wait

log = logging.getLogger(__name__)

# Waits that begin together are asked about together.
GATHER = 0.05
GATHER_AT_MOST = 1.0
LONGEST_SLEEP = 3_600.0
# After this many retrieves the poller looks again at what is most urgent.
RETRIEVES_AT_ONCE = 50
# After this many failures in a row, the service is at fault and not a single batch.
MAX_STRIKES = 5
TOLD_AT_ONCE = 100
AFTER_A_BUG = 5.0
# Deadlines are looked at this often. A timer for each wait would cost as much as the wait itself.
DEADLINES_EVERY = 0.2
# The first interval is shortened by up to this fraction, so that waits that began together are spread out. A
# page also covers batches that are due within this fraction of their interval.
SPREAD = 0.25


class Waiter:
    """
    Connects one wait to the poller of its connection; an async context manager.

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
        self._poller = on_this_loop(_pollers, self._conn_id, Poller)
        self._poller.join(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._poller:
            await self._poller.leave(self)

    async def news(self) -> list[Line]:
        """Wait until there is something to log, or the wait has ended."""
        while not self._has_news:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._bug:
            raise self._bug
        lines, self.wait.lines = self.wait.lines, []
        return lines

    def change(self, change: Callable[[float], None]) -> None:
        """Change the state of the wait. An exception is raised only in the wait's own trigger."""
        try:
            change(time.time())
        except Exception as error:  # noqa: BLE001 - raised again by news()
            self._bug = error
        if self._has_news and self._news and not self._news.done():
            self._news.set_result(None)

    @property
    def _has_news(self) -> bool:
        return bool(self.wait.lines or self.wait.ending or self._bug)


class PolledBatch:
    """
    A batch that is waited for, and when to ask about it.

    ``due`` is on the monotonic clock. ``interval`` is the time from the last look until then, and None before
    the first look.
    """

    __slots__ = ("batch_id", "due", "interval", "waiters")

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        self.due = 0.0
        self.interval: float | None = None
        self.waiters: list[Waiter] = []

    def is_nearly_due(self, now: float) -> bool:
        return self.due - now <= (self.interval or 0.0) * SPREAD

    def schedule(self) -> None:
        """Set when to ask again: as soon as any of the waiters wants."""
        now = time.time()
        delay = min(waiter.wait.next_in(self.batch_id, now) for waiter in self.waiters)
        part = random.uniform(1 - SPREAD, 1) if self.interval is None else 1.0  # noqa: S311 - no secret
        self.interval = delay
        self.due = time.monotonic() + delay * part

    def put_off(self) -> None:
        """Put off the first look by an interval."""
        self.schedule()
        self.interval = None


class Poller:
    """
    The poller of one connection. Its task begins with the first batch.

    :param conn_id: the Airflow connection.
    """

    _client: SharedClient

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self._waiters: dict[Waiter, None] = {}
        self._polled: dict[str, PolledBatch] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._next_deadline = 0.0
        self._lister: Lister | None = None
        self._strikes = 0
        self._is_refused = False

    def join(self, waiter: Waiter) -> None:
        """Poll the batches that the wait is pending for, the first time at once, and watch its deadline."""
        self._waiters[waiter] = None
        for batch_id in waiter.wait.pending:
            polled = self._polled.setdefault(batch_id, PolledBatch(batch_id))
            polled.waiters.append(waiter)
            polled.due = 0.0
        self._arrived.set()
        self._next_deadline = min(self._next_deadline, waiter.wait.deadline)
        if self._deadline_timer is None:
            self._watch_deadlines()
        if self._task is None and self._polled:
            # In a context of its own: otherwise its lines would go to the log of the first trigger's task.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"poller of {self.conn_id}", context=contextvars.Context()
            )

    async def leave(self, waiter: Waiter) -> None:
        """Forget the waiter. The last one ends the poller, and waits until the client is closed."""
        self._waiters.pop(waiter, None)
        for batch_id in waiter.wait.pending:
            polled = self._polled.get(batch_id)
            if polled and waiter in polled.waiters:
                self._drop(polled, [waiter])
        if self._waiters:
            return
        _pollers.pop((asyncio.get_running_loop(), self.conn_id), None)
        if self._deadline_timer:
            self._deadline_timer.cancel()
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _drop(self, polled: PolledBatch, waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
            polled.waiters.remove(waiter)
        if not polled.waiters:
            self._polled.pop(polled.batch_id, None)
            if self._lister:
                self._lister.forget(polled.batch_id)

    def _watch_deadlines(self) -> None:
        """End overdue waits; not part of a round, because a deadline holds however long a request takes."""
        now = time.time()
        if now >= self._next_deadline:
            for waiter in self._waiters:
                if waiter.wait.deadline <= now:
                    waiter.change(waiter.wait.tick)
            left = (waiter.wait.deadline for waiter in self._waiters if not waiter.wait.ending)
            self._next_deadline = min(left, default=float("inf"))
        loop = asyncio.get_running_loop()
        self._deadline_timer = loop.call_later(DEADLINES_EVERY, self._watch_deadlines)

    # -- rounds ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        async with borrow(self.conn_id) as self._client:
            # Opened while others still arrive. Any failure comes again in the round, and is told there.
            with contextlib.suppress(Exception):
                await self._client.open()
            while True:
                await self._sleep_until_due()
                try:
                    await self._round()
                except Exception as error:
                    log.exception("A round of polling on connection %s broke off", self.conn_id)
                    await self._fail_all(TransportError(f"A round of polling broke off ({error!r})"))
                    await asyncio.sleep(AFTER_A_BUG)
                finally:
                    metrics.poll_round(*self._client.count(), self.conn_id)
                    metrics.waits(len(self._polled), self.conn_id)

    async def _sleep_until_due(self) -> None:
        while True:
            if self._arrived.is_set():
                await self._gather()
            due = min((polled.due for polled in self._polled.values()), default=float("inf"))
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

    def _due(self, now: float) -> list[PolledBatch]:
        """Return what is due, the most urgent first."""
        due = (polled for polled in self._polled.values() if polled.due <= now)
        return sorted(due, key=lambda polled: polled.due)

    async def _round(self) -> None:
        self._strikes, self._is_refused = 0, False
        error: OpenAIBatchesError | None = None
        try:
            await self._client.refresh_now_and_then()
            await self._client.open()
            await self._ask(time.monotonic())
        except OpenAIBatchesError as failure:
            error = failure
            self._is_refused = self._is_refused or is_refusal(failure)
        if self._is_refused:
            try:
                if await self._client.refresh():
                    return  # a new key is tried before any wait is told
            except OpenAIBatchesError as newer:
                error = error and newer
        if error:
            await self._fail_all(error)

    async def _ask(self, now: float) -> None:
        """Ask about what is due by now: what becomes due meanwhile may share a page in the next round."""
        if self._lister is None and len(self._polled) > 1:
            from airflow_provider_openai_batches.polling.lister import Lister  # noqa: PLC0415 - a single wait needs no list

            self._lister = Lister(self._client, self._polled, self._deliver)
        if self._lister:
            await self._lister.ask(now)
        rest = [polled.batch_id for polled in self._due(now)[:RETRIEVES_AT_ONCE]]
        random.shuffle(rest)  # so that those that fail are not always the first
        await for_each(rest, self._retrieve)

    async def _fail_all(self, error: Exception) -> None:
        due = self._due(time.monotonic())
        waiters = dict.fromkeys(waiter for polled in due for waiter in polled.waiters)
        for number, waiter in enumerate(waiters, 1):
            waiter.change(partial(waiter.wait.failed, error))
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
        for polled in due:
            if polled.waiters:
                polled.schedule()

    # -- requests --------------------------------------------------------------------------------------------

    async def _retrieve(self, batch_id: str) -> None:
        """:raises OpenAIBatchesError: for a failure that says that all further requests will fail too."""
        if batch_id not in self._polled:
            return
        try:
            batch = await self._client.retrieve_batch(batch_id)
        except OpenAIBatchesError as error:
            self._failed(error, batch_id)
        else:
            self._strikes = 0
            self._deliver(batch)

    def _failed(self, error: OpenAIBatchesError, batch_id: str) -> None:
        """Tell the batch's own waits, unless it is the connection or the service that is at fault."""
        status = error.status if isinstance(error, APIError) else None
        self._is_refused = self._is_refused or is_refusal(error)
        self._strikes = 0 if status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND} else self._strikes + 1
        if status == HTTPStatus.UNAUTHORIZED or self._strikes >= MAX_STRIKES:
            raise error
        if polled := self._polled.get(batch_id):
            for waiter in polled.waiters:
                waiter.change(partial(waiter.wait.failed, error, batch_id=batch_id))
            polled.schedule()

    def _deliver(self, batch: Batch) -> None:
        polled = self._polled.get(batch.id)
        if polled is None:
            return
        for waiter in polled.waiters:
            waiter.change(partial(waiter.wait.saw, batch))
            self._next_deadline = min(self._next_deadline, waiter.wait.deadline)
        self._drop(polled, [waiter for waiter in polled.waiters if batch.id not in waiter.wait.pending])
        if polled.waiters:
            polled.schedule()
        if self._lister:
            self._lister.saw(batch)


_pollers: dict[LoopAndConnection, Poller] = {}
