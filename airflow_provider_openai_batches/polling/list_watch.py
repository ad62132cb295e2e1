"""
Watches the list of a connection's batches for all who want to know which of them end.

All watchers on one event loop that use one connection share a :class:`ListWatch`. A look usually takes one
request, for the newest batches, however many watch. Older batches that are awaited take a page for up to 100
of them: the list only grows at its top, so the batch that stood before an awaited one is the cursor of a page
that begins with it.

https://developers.openai.com/api/reference/resources/batches/methods/list
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Self

from airflow_provider_openai_batches.api.retry import MAX_RETRY_AFTER, is_refusal
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.polling import progress
from airflow_provider_openai_batches.polling.client import borrow, on_this_loop
from airflow_provider_openai_batches.polling.list_plan import shown_on

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.polling.client import LoopAndConnection, SharedClient
    from airflow_provider_openai_batches.polling.ends import Ends, Position

log = logging.getLogger(__name__)

# Seconds. Watchers that begin together take one look at the whole list together.
GATHER = 0.2
# A batch that was created this long ago has ended, where the completion window is OpenAI's 24 hours. A first
# look goes further back only while pages show batches that are awaited.
WINDOW = 26 * 3_600
# After so many batches in a row that cannot be retrieved, the service is at fault.
MAX_FAILURES = 3
TROUBLE_EVERY = 600.0


class Watcher:
    """
    Connects one watch to the list of its connection; an async context manager.

    :param conn_id: the Airflow connection.
    :param ends: its state, which the list's pages change.
    :param interval: seconds between two looks.
    """

    def __init__(self, conn_id: str, ends: Ends, interval: float) -> None:
        self.ends = ends
        self.interval = interval
        self.has_looked = False
        self._conn_id = conn_id
        self._news = asyncio.Event()
        self._watch: ListWatch | None = None

    async def __aenter__(self) -> Self:
        self._watch = on_this_loop(_watches, self._conn_id, ListWatch)
        self._watch.join(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch:
            await self._watch.leave(self)

    async def look(self) -> tuple[list[Batch], Position | None]:
        """Wait for the end of a look, and return what is to be told, and the position after that."""
        await self._news.wait()
        self._news.clear()
        return self.ends.take()

    def tell(self, *, is_complete: bool) -> None:
        """End a look; in one that is not complete, requests have failed."""
        if is_complete:
            self.ends.looked(time.time())
            self.has_looked = True
        self._news.set()


class _Awaited(NamedTuple):
    """When a batch was created, and which one stands before it in the list; None if it was the newest."""

    created_at: int
    before: str | None


class ListWatch:
    """
    Shows the batches of a connection's list to its watchers. Its task begins with the first one.

    :param conn_id: the Airflow connection.
    """

    _client: SharedClient

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self._watchers: dict[Watcher, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        # What the first page showed in the last look that got to known ones: further down, the list is known.
        self._top: set[str] = set()
        self._awaited: dict[str, _Awaited] = {}
        self._shown: set[str] = set()
        self._failing_since: float | None = None
        self._next_line = 0.0

    def join(self, watcher: Watcher) -> None:
        self._watchers[watcher] = None
        self._arrived.set()
        if self._task is None:
            # In a context of its own: otherwise its lines would go to the log of the first trigger.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"list watch of {self.conn_id}", context=contextvars.Context()
            )

    async def leave(self, watcher: Watcher) -> None:
        """Forget the watcher. The last one ends the watch, and waits until the client is closed."""
        self._watchers.pop(watcher, None)
        if self._watchers:
            return
        _watches.pop((asyncio.get_running_loop(), self.conn_id), None)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        async with borrow(self.conn_id) as self._client:
            while True:
                await asyncio.sleep(GATHER)
                self._arrived.clear()
                pause = await self._look_and_tell()
                metrics.poll_round(*self._client.count(), self.conn_id)
                try:
                    async with asyncio.timeout(pause):
                        await self._arrived.wait()
                except TimeoutError:
                    continue

    async def _look_and_tell(self) -> float:
        """Take a look, tell the watchers, and return how many seconds the next one is away."""
        watchers = list(self._watchers)
        error: Exception | None = None
        try:
            await self._client.refresh_now_and_then()
            await self._look(watchers)
        except OpenAIBatchesError as failure:
            error = failure
        except Exception as bug:
            log.exception("A look at the batches of connection %s broke off", self.conn_id)
            error = bug
        self._say(error)
        for watcher in watchers:
            watcher.tell(is_complete=error is None)
        pause = min(watcher.interval for watcher in watchers)
        if isinstance(error, APIError):
            pause = max(pause, min(error.retry_after or 0.0, MAX_RETRY_AFTER))
            if is_refusal(error):
                await self._read_connection_again()
        return pause

    async def _read_connection_again(self) -> None:
        try:
            await self._client.refresh()
        except Exception as error:  # noqa: BLE001 - nothing ends the watch, also if no certificates can be read
            log.warning("Connection %s: %s", self.conn_id, error)

    def _say(self, error: Exception | None) -> None:
        """Log trouble when it begins and every ten minutes, and its end."""
        now = time.monotonic()
        if error is None:
            if self._failing_since is not None:
                lasted = progress.duration(now - self._failing_since)
                log.info(
                    "Connection %s: the list of batches is complete again, after %s", self.conn_id, lasted
                )
            self._failing_since, self._next_line = None, 0.0
            return
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now >= self._next_line:
            log.warning("Connection %s: %s; the watch for ended batches goes on", self.conn_id, error)
            self._next_line = now + TROUBLE_EVERY

    # -- one look --------------------------------------------------------------------------------------------

    async def _look(self, watchers: list[Watcher]) -> None:
        """:raises OpenAIBatchesError: if a part of the list did not come; the rest was shown."""
        self._shown = set()
        new = [watcher for watcher in watchers if not watcher.has_looked]
        back_to = min((watcher.ends.since or time.time() for watcher in new), default=None)
        # Known from now on, whatever becomes of older ones: else each look would go down to the same place.
        top = await self._pages_from_the_top(None if back_to is None else back_to - WINDOW)
        self._top = top or self._top  # an empty list may be a mistake
        await self._older_ones()

    async def _pages_from_the_top(self, back_to: float | None) -> set[str]:
        """
        Show the newest batches.

        :param back_to: how far, in Unix seconds; None: as far as the list is not known.
        :return: the ids on the first page.
        """
        top: set[str] = set()
        seen: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._client.list_batches(cursor)
            ids = {batch.id for batch in page.data}
            is_old = ids <= seen  # also if there is none
            seen |= ids
            self._show(page, cursor)
            top = top or ids
            if is_old or not page.has_more or self._is_far_enough(page, back_to):
                return top
            cursor = page.data[-1].id

    def _is_far_enough(self, page: BatchPage, back_to: float | None) -> bool:
        if back_to is None:
            return any(batch.id in self._top for batch in page.data)
        is_awaited = any(batch.id in self._awaited for batch in page.data)
        times = [batch.created_at for batch in page.data if batch.created_at]
        return not is_awaited and (times[-1] if times else 0) < back_to

    async def _older_ones(self) -> None:
        """Show the awaited batches that stand further down."""
        failure, failures = None, 0
        newest_first = sorted(self._awaited.items(), key=lambda item: -item[1].created_at)
        for batch_id, awaited in newest_first:
            if batch_id in self._shown or batch_id not in self._awaited:
                continue
            try:
                await self._show_one(batch_id, awaited.before)
            except OpenAIBatchesError as error:
                failure, failures = error, failures + 1
                if failures == MAX_FAILURES or is_refusal(error):
                    break
            else:
                failures = 0
        if failure:
            raise failure

    async def _show_one(self, batch_id: str, before: str | None) -> None:
        try:
            if before is not None:
                self._show(await self._client.list_batches(before), before)
        except APIError as error:
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
                raise  # else the batch that is the cursor is gone
        if batch_id not in self._shown:
            await self._retrieve(batch_id)

    async def _retrieve(self, batch_id: str) -> None:
        try:
            batch = await self._client.retrieve_batch(batch_id)
        except APIError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            log.warning("Connection %s: the service does not know batch %s any more", self.conn_id, batch_id)
            self._awaited.pop(batch_id, None)
            for watcher in self._watchers:
                watcher.ends.lost(batch_id)
        else:
            self._show_batch(batch, None)

    def _show(self, page: BatchPage, before: str | None) -> None:
        useful = {batch.id for batch in shown_on(page)}
        for batch in page.data:
            if batch.id in useful:
                self._show_batch(batch, before)
            before = batch.id

    def _show_batch(self, batch: Batch, before: str | None) -> None:
        self._shown.add(batch.id)
        now, is_awaited = time.time(), False
        for watcher in self._watchers:
            is_awaited = watcher.ends.saw(batch, now) or is_awaited
        if is_awaited:
            self._awaited[batch.id] = _Awaited(batch.created_at or 0, before)
        else:
            self._awaited.pop(batch.id, None)


_watches: dict[LoopAndConnection, ListWatch] = {}
