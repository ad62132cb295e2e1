"""Asks for many batches by pages of the list: those whose place is known, and once for each that is new."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.polling.client import IN_FLIGHT
from airflow_provider_openai_batches.polling.list_plan import LIST_FROM, Chart, Walk, shown_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.polling.client import SharedClient
    from airflow_provider_openai_batches.polling.list_plan import Window
    from airflow_provider_openai_batches.polling.schedule import Entry

T = TypeVar("T")

# The first page may show none of those that it showed before: then a retrieve and another page show them.
FIRST_PAGE_FROM = 3
# A page that fails is asked for once more.
PAGE_AGAIN_AFTER = 0.5
# After a page that did not come, the list is looked through again so much later, twice as long each time.
EXPLORE_AGAIN_AFTER = 60.0
EXPLORE_AGAIN_AT_LAST = 3_600.0


class Stop:
    """Whether an answer ends a round: it says something about the connection, or the service."""

    def __init__(self) -> None:
        self.by: OpenAIBatchesError | None = None
        self.is_refusal = False

    def forget(self) -> None:
        self.by, self.is_refusal = None, False

    async def each(self, work: Sequence[T], ask: Callable[[T], Awaitable[object]]) -> None:
        """Ask for all of it, some at a time, until there is a stop."""
        left = iter(work)

        async def some() -> None:
            for one in left:
                if self.by:
                    return
                await ask(one)

        await asyncio.gather(*(some() for _ in range(min(IN_FLIGHT, len(work)))))


class Pages:
    """
    The list of one connection's account.

    :param entries: what is waited for, by id.
    :param stop: of the poller's rounds.
    :param deliver: takes a whole Batch object.
    :param retrieve: asks for a batch and delivers it.
    """

    def __init__(
        self,
        client: SharedClient,
        entries: Mapping[str, Entry],
        stop: Stop,
        deliver: Callable[[Batch], None],
        retrieve: Callable[[str], Awaitable[None]],
    ) -> None:
        self.chart = Chart()
        self._client = client
        self._entries = entries
        self._stop = stop
        self._deliver = deliver
        self._retrieve = retrieve
        self._explore_at = 0.0
        self._explore_pause = EXPLORE_AGAIN_AFTER

    async def ask(self, now: float) -> None:
        """
        Look for what has no place on the chart; then ask for the pages that show what is due.

        :param now: when it is to be due, on the monotonic clock.
        """
        await self._explore(now)
        for _ in range(2):  # what newer batches pushed down from the first page has then another page
            await self._stop.each(self._windows(now), self._window)

    def _windows(self, now: float) -> list[Window]:
        """The pages that show something due, and another that is at least nearly so."""
        near = {batch_id for batch_id, entry in self._entries.items() if entry.is_nearly_due(now)}
        found = []
        for window in self.chart.windows():
            asked = near.intersection(window.batch_ids)
            pays = len(asked) >= (2 if window.cursor else FIRST_PAGE_FROM)
            if pays and any(self._entries[batch_id].due <= now for batch_id in asked):
                found.append(window)
        return found

    async def _window(self, window: Window) -> None:
        """Ask for a page; what it should show and does not is retrieved, now or from now on."""
        page = await self._page(window.cursor)
        if self._stop.by:
            return
        shown = {batch.id for batch in shown_on(page)} if page else set()
        expected = window.batch_ids if window.cursor else window.batch_ids[:1]
        missing = [batch_id for batch_id in expected if batch_id in self._entries and batch_id not in shown]
        for batch_id in missing:
            self.chart.forget(batch_id)
            if page:
                self._entries[batch_id].listed_from = float("inf")
        if page is None:
            self._explore_later()
            now = time.monotonic()
            due = [batch_id for batch_id in missing if self._entries[batch_id].due <= now]
            await self._stop.each(due, self._retrieve)

    # -- what is new -----------------------------------------------------------------------------------------

    async def _explore(self, now: float) -> None:
        """Walk the list once for those of which nobody knows whether it shows them."""
        entries = [
            entry
            for entry in self._entries.values()
            if entry.may_be_listed and entry.batch_id not in self.chart
        ]
        if len(entries) < LIST_FROM or now < self._explore_at or all(entry.due > now for entry in entries):
            return
        entries.sort(key=lambda entry: (entry.created_at or float("inf"), entry.number), reverse=True)
        unasked = [entry.batch_id for entry in entries if entry.interval is None]
        walk = Walk([entry.batch_id for entry in entries], unasked)
        newest = await self._walk(walk)
        if self._stop.by:
            return
        if walk.has_failed:
            self._explore_later()
        else:
            self._explore_pause = EXPLORE_AGAIN_AFTER
            self._give_up(walk, newest)

    def _explore_later(self) -> None:
        now = time.monotonic()
        if now >= self._explore_at:
            self._explore_at = now + self._explore_pause
            self._explore_pause = min(self._explore_pause * 2, EXPLORE_AGAIN_AT_LAST)

    def _give_up(self, walk: Walk, newest: float) -> None:
        """
        What a walk did not find is retrieved from now on.

        Unless it turns out to be newer than the newest that was shown: then it may be shown later. And so
        that no request more was sent than a retrieve for each, some wait for theirs.
        """
        left = [self._entries[batch_id] for batch_id in walk.left if batch_id in self._entries]
        for entry in left:
            entry.listed_from = float("inf") if entry.created_at else newest
        for entry in [entry for entry in left if entry.interval is None][: walk.lost]:
            entry.schedule()

    async def _walk(self, walk: Walk) -> float:
        """Walk from the top, and then from awaited batches on; when the newest of all was created."""
        newest = float("inf")
        start: str | None = None
        while True:
            if start:
                await self._retrieve(start)
            saved = walk.saved
            page, cursor = await self._step(walk, start)
            if start:
                walk.landed(saved)
            elif page is None:
                break
            elif page.data:
                newest = page.data[0].created_at or newest
            if cursor:
                await asyncio.gather(*(self._lane(walk, lane) for lane in walk.lanes(cursor)))
            start = None if self._stop.by else walk.jump()
            if start is None:
                break
        return newest

    async def _lane(self, walk: Walk, cursor: str | None) -> None:
        while cursor and not self._stop.by:
            _, cursor = await self._step(walk, cursor)

    async def _step(self, walk: Walk, after: str | None) -> tuple[BatchPage | None, str | None]:
        """A page of a walk, and the next one's cursor."""
        walk.asks()
        page = await self._page(after)
        if page is None:
            walk.failed()
            return None, None
        return page, walk.take(page)

    # -- requests --------------------------------------------------------------------------------------------

    async def _page(self, after: str | None) -> BatchPage | None:
        """Ask for a page, note it on the chart, and hand it out; None if it does not come."""
        try:
            page = await self._list(after)
        except OpenAIBatchesError as error:
            if isinstance(error, APIError) and error.status in {401, 429}:
                self._stop.by = error
                self._stop.is_refusal = error.status == 401  # noqa: PLR2004 - HTTP
            return None
        self.chart.note(page, after, self._entries)
        for batch in shown_on(page):
            self._deliver(batch)
        return page

    async def _list(self, after: str | None) -> BatchPage:
        try:
            return await self._client.list_batches(after)
        except OpenAIBatchesError as error:
            if isinstance(error, APIError) and error.status < 500:  # noqa: PLR2004 - HTTP
                raise
        await asyncio.sleep(PAGE_AGAIN_AFTER)
        return await self._client.list_batches(after)
