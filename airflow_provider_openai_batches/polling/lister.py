"""Asks about many batches by pages of the list, wherever a page saves requests."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from airflow_provider_openai_batches.api.retry import is_server_error
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.polling.client import for_each
from airflow_provider_openai_batches.polling.list_plan import (
    HEAD_AFTER,
    LANES,
    LIST_FROM,
    PATIENCE,
    Chart,
    Probe,
    Walk,
    Window,
    probes,
    shown_on,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.polling.client import SharedClient

# A page that fails is asked for once more, because it covers many batches.
PAGE_AGAIN_AFTER = 0.5
# After a page did not come, the next walk begins no sooner; each time twice as late, up to an hour.
WALK_AGAIN_AFTER = 60.0
WALK_AGAIN_AT_LAST = 3_600.0
# After this many windows in a row that did not come, the list is at fault, and all of it is forgotten.
BROKEN_AFTER = 3
NEVER = float("inf")


class Polled(Protocol):
    """A batch that is waited for; ``interval`` is None until its first look."""

    due: float
    interval: float | None

    def is_nearly_due(self, now: float) -> bool: ...
    def schedule(self) -> None: ...
    def put_off(self) -> None: ...


class Lister:
    """
    Asks about the batches of one connection's account through the list.

    :param polled: what is waited for, by id, the newest last. It may change at any time.
    :param deliver: takes each Batch object that a page shows.
    """

    def __init__(
        self, client: SharedClient, polled: Mapping[str, Polled], deliver: Callable[[Batch], None]
    ) -> None:
        self._client = client
        self._polled = polled
        self._deliver = deliver
        self._chart = Chart()
        # Batches that the list did not show. One that was created after the time beside it (Unix seconds) may
        # be shown later, because a list can lag.
        self._unlisted: dict[str, float] = {}
        # When each batch was created (Unix seconds, once it was polled), and the turn since which it is
        # awaited.
        self._created: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self._search_at = 0
        # Batches whose first look a walk has put off. A search may put it off once more.
        self._put_off: dict[str, None] = {}
        # Batches of which one look was put off for a page that a search asked for.
        self._has_paid: dict[str, None] = {}
        # This call of ask(): its number and time, how many retrieves it saved, and how many looks it put off.
        self._turn = 0
        self._now = 0.0
        self._saved = self._paid = 0
        self._walk_at = 0.0
        self._walk_pause = WALK_AGAIN_AFTER
        self._failed_windows = 0
        self._newest = NEVER

    async def ask(self, now: float) -> None:
        """
        Look for new batches, ask for the pages that show what is due, and look for what no page showed.

        :param now: the time by which a batch must be due, on the monotonic clock.
        :raises OpenAIBatchesError: for an answer that says that all further requests will fail too.
        """
        self._turn, self._now, self._saved, self._paid = self._turn + 1, now, 0, 0
        for batch_id in self._polled:
            self._since.setdefault(batch_id, self._turn)
        await self._find(now)
        for _ in range(2):  # twice: what newer batches pushed off the first page is then on another one
            await for_each(self._windows(now), self._ask_window)
        await self._search()

    def forget(self, batch_id: str) -> None:
        """Forget a batch that nobody waits for any more."""
        self._chart.forget(batch_id)
        for known in (self._unlisted, self._created, self._since, self._put_off, self._has_paid):
            known.pop(batch_id, None)
        self._search_at = 0

    def saw(self, batch: Batch) -> None:
        """
        Note when a batch was created.

        One that turns out to be newer than all that the list showed is looked for once more.
        """
        self._put_off.pop(batch.id, None)
        if batch.created_at is not None and batch.id in self._polled and batch.id not in self._created:
            self._created[batch.id] = batch.created_at
            self._search_at = 0
        if (batch.created_at or 0) > self._unlisted.get(batch.id, NEVER):
            del self._unlisted[batch.id]

    def _windows(self, now: float) -> list[Window]:
        """Return the pages that save requests, for batches that are due or nearly due."""
        near = {batch_id for batch_id, polled in self._polled.items() if polled.is_nearly_due(now)}
        found = []
        for window in self._chart.windows():
            asked = near.intersection(window.batch_ids)
            if len(asked) >= window.pays_from and any(self._polled[one].due <= now for one in asked):
                found.append(window)
        return found

    async def _ask_window(self, window: Window) -> None:
        """
        Ask for a page. What it should show and does not is retrieved from now on.

        If it does not come, its batches are retrieved until another walk finds them again.
        """
        if window.batch_ids[0] not in self._chart:
            return  # the list was found to be broken meanwhile
        page = await self._page(window.cursor)
        if page is None:
            self._lose(window)
            return
        self._failed_windows = 0
        shown = {batch.id for batch in shown_on(page)}
        expected = window.batch_ids if window.cursor else window.batch_ids[:1]
        for batch_id in expected:
            if batch_id in self._polled and batch_id not in shown:
                self._chart.forget(batch_id)
                self._unlisted[batch_id] = NEVER

    def _lose(self, window: Window) -> None:
        self._failed_windows += 1
        if self._failed_windows >= BROKEN_AFTER:
            self._chart = Chart()
        for batch_id in window.batch_ids:
            self._chart.forget(batch_id)
        self._walk_later()

    def _walk_later(self) -> None:
        now = time.monotonic()
        if now >= self._walk_at:
            self._walk_at = now + self._walk_pause
            self._walk_pause = min(self._walk_pause * 2, WALK_AGAIN_AT_LAST)

    async def _find(self, now: float) -> None:
        """Look in the list for batches whose place in it is not known yet."""
        newest_first = reversed(list(self._polled))
        wanted = [one for one in newest_first if one not in self._chart and one not in self._unlisted]
        if len(wanted) < LIST_FROM or now < self._walk_at:
            return
        if all(self._polled[one].due > now for one in wanted):
            return
        new = [one for one in wanted if self._polled[one].interval is None]
        # Without new ones an earlier walk has failed; then this one may waste a request or two.
        walk = Walk(wanted, new or wanted)

        async def step(cursor: str | None) -> None:
            walk.take(cursor, await self._page(cursor))

        while cursors := walk.cursors():
            await for_each(cursors, step)
        if walk.has_failed:
            self._walk_later()
            return
        self._walk_pause = WALK_AGAIN_AFTER
        for one in walk.left:
            if one in self._polled:  # a second walk in vain is the last one
                self._unlisted[one] = self._newest if self._polled[one].interval is None else NEVER
        payers = [one for one in walk.payers if one in self._polled and self._polled[one].interval is None]
        # The oldest wait: to know where the newest stands helps to find the others.
        for one in payers[::-1][: max(walk.lost, 0)]:
            self._polled[one].put_off()
            self._put_off[one] = None
            self._paid += 1
            self._saved += 1

    async def _search(self) -> None:
        """Ask for pages that could show, by ``created_at``, batches without a place, if that is paid for."""
        misses = 0
        while misses < LANES and self._now >= self._walk_at and (probe := self._next_probe()):
            before = self._saved
            if await self._page(probe.cursor) is None:
                self._walk_later()
            misses += self._saved < before
            if self._saved < 0 and (payer := self._payer()):
                self._put_off.pop(payer, None)
                self._has_paid[payer] = None
                self._polled[payer].schedule()
                self._paid += 1
                self._saved += 1

    def _next_probe(self) -> Probe | None:
        """
        Return a page that this turn can pay for.

        If nothing was saved, a first look that is put off pays, but not for a distance in time at which a
        page has already failed to show the next batch.
        """
        if self._turn < self._search_at or self._saved < 0 or (self._saved == 0 and not self._payer()):
            return None
        untried: list[Probe] = []
        too_far = float("inf")
        for probe in probes(self._chart, self._created, self._since, self._turn):
            if probe.is_tried:
                too_far = min(too_far, probe.gap)
            elif self._saved > 1:
                return probe
            else:
                untried.append(probe)
        if not untried:
            self._search_at = self._turn + HEAD_AFTER
            return None
        nearest = min(untried, key=lambda probe: probe.gap)
        return nearest if self._saved or nearest.gap < too_far else None

    def _payer(self) -> str | None:
        """
        Return a batch whose look may be put off for a page, unless the list has never shown any.

        The first ones are those whose first look a walk has put off; each other one pays once.
        """
        if self._paid >= PATIENCE or self._newest == NEVER:
            return None
        others = (
            one for one in self._polled if one not in self._has_paid and self._unlisted.get(one) != NEVER
        )
        return next((one for one in chain(self._put_off, others) if self._polled[one].due <= self._now), None)

    async def _page(self, after: str | None) -> BatchPage | None:
        """Ask for a page, note it on the chart, and deliver its batches; None if the request fails."""
        try:
            page = await self._list(after)
        except OpenAIBatchesError as error:
            if isinstance(error, APIError) and error.status in {
                HTTPStatus.UNAUTHORIZED,
                HTTPStatus.TOO_MANY_REQUESTS,
            }:
                raise
            return None
        self._chart.note(page, after, self._polled, self._turn)
        if after is None:
            self._newest = next((batch.created_at or NEVER for batch in page.data), NEVER)
        for batch in shown_on(page):
            polled = self._polled.get(batch.id)
            self._saved += polled is not None and polled.is_nearly_due(self._now)
            self._deliver(batch)
        return page

    async def _list(self, after: str | None) -> BatchPage:
        self._saved -= 1
        try:
            return await self._client.list_batches(after)
        except OpenAIBatchesError as error:
            if isinstance(error, APIError) and not is_server_error(error.status):
                raise  # the client has waited out a 429, and nothing else below 500 passes soon
        await asyncio.sleep(PAGE_AGAIN_AFTER)
        self._saved -= 1
        return await self._client.list_batches(after)
