"""
PURE: which requests ask for many batches in the fewest requests.

``GET /batches`` shows 100 batches a page, newest first, and any batch's id serves as the cursor. The list
grows at its top alone: what stands behind a batch stays there. So a :class:`Chart` keeps where a page showed
an awaited batch, and tells before anything is asked which pages show two or more of them. Where new ones
stand, a :class:`Walk` finds out once; the rest is retrieved. No round takes more requests than a retrieve of
each batch would: for each page that shows none, a batch waits an interval for its first look.

https://developers.openai.com/api/reference/resources/batches/methods/list
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable

    from airflow_provider_openai_batches.api.models import Batch, BatchPage

PAGE = 100
# So many waits are worth a look at a page; fewer are retrieved.
LIST_FROM = 8
# So many pages that show none are worth it, to find out where in the list they are.
MOST_LOST = 2
LANES = 8
WAITS_A_LANE = 600
FRUITLESS_JUMPS = 2


class Place(NamedTuple):
    """
    Where the list shows a batch: its number in a stretch of the list, counted from the newest on.

    ``before`` is the batch that is listed right before it, and so the cursor of a page that begins with it;
    the newest of all has none.
    """

    stretch: int
    number: int
    before: str | None


class Window(NamedTuple):
    """
    A page that shows the batches named, whatever else it shows.

    Without a cursor it is the first one: there newer batches may have pushed down all of them.
    """

    cursor: str | None
    batch_ids: list[str]


class Chart:
    """Where the awaited batches stand in the list, as far as pages have shown it."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._stretches = 0
        self._top: str | None = None
        self._windows: list[Window] | None = None

    def __contains__(self, batch_id: str) -> bool:
        return batch_id in self._places

    def forget(self, batch_id: str) -> None:
        if self._places.pop(batch_id, None):
            self._windows = None

    def note(self, page: BatchPage, after: str | None, awaited: Container[str]) -> None:
        """Take over where a page shows awaited batches; ``after`` is its cursor."""
        ids = [batch.id for batch in page.data]
        stretch, number = self._origin(ids, after)
        before = after
        if after is None:
            self._top = next(iter(ids), None)
        for batch_id in ids:
            if batch_id in awaited:
                place = Place(stretch, number, before)
                if place != self._places.get(batch_id):
                    self._places[batch_id] = place
                    self._windows = None
            before, number = batch_id, number + 1

    def windows(self) -> list[Window]:
        """
        The fewest pages that show two or more of the batches each, without overlap.

        Of all batches, whichever are due: what a page shows together is then asked for together.
        """
        if self._windows is None:
            self._windows = [window for window in self._cut() if len(window.batch_ids) > 1]
        return self._windows

    def _cut(self) -> list[Window]:
        found: list[Window] = []
        end = (0, 0)
        for batch_id, (stretch, number, before) in sorted(self._places.items(), key=lambda one: one[1][:2]):
            if (stretch, number) < end:
                found[-1].batch_ids.append(batch_id)
            elif before or batch_id == self._top:
                found.append(Window(before, [batch_id]))
                end = (stretch, number + PAGE)
        return found

    def _origin(self, ids: list[str], after: str | None) -> tuple[int, int]:
        """The place of a page's first batch: as known from any batch near it, or in a stretch of its own."""
        for offset, batch_id in enumerate([after, *ids], -1):
            if batch_id in self._places:
                place = self._places[batch_id]
                return place.stretch, place.number - offset
        self._stretches += 1
        return self._stretches, 0


class Walk:
    """
    The way through the list to batches whose place is not known, along as many pages as pay.

    :param wanted: ids, as far as known the newest first.
    :param unasked: those among them that were never asked for, each of which can make up for one page. If
        there is none, a walk has broken off before, and this one may lose some.
    """

    def __init__(self, wanted: Iterable[str], unasked: Collection[str]) -> None:
        self.left: dict[str, None] = dict.fromkeys(wanted)
        self.saved = 0
        self.has_failed = False
        self._makes_up = bool(unasked)
        self._unasked = set(unasked)
        self._under_way = 0
        self._fruitless_jumps = 0
        self._starts: set[str] = set()
        self._cursors: set[str] = set()

    @property
    def lost(self) -> int:
        """So many pages more than they saved."""
        return max(0, -self.saved)

    @property
    def pays(self) -> int:
        """How many more pages may be under way at once: even if all are empty, the rest pays for them."""
        spare = min(MOST_LOST, len(self._unasked)) if self._makes_up else MOST_LOST
        return self.saved + spare - self._under_way

    def asks(self) -> None:
        """Note that a page is under way."""
        self._under_way += 1

    def failed(self) -> None:
        """Note that it did not come."""
        self._under_way -= 1
        self.saved -= 1
        self.has_failed = True

    def take(self, page: BatchPage) -> str | None:
        """Count what a page shows; the cursor of the next one, or None if the lane ends here."""
        shown = shown_on(page)
        found = 0
        for batch in shown:
            if batch.id in self.left:
                del self.left[batch.id]
                self._unasked.discard(batch.id)
                found += 1
        self._under_way -= 1
        self.saved += found - 1
        cursor = page.last_id or (page.data[-1].id if page.data else None)
        if not cursor or not page.has_more or cursor in self._cursors:
            return None
        self._cursors.add(cursor)
        if not found or not self.left or not self._starts.isdisjoint(batch.id for batch in shown):
            return None
        return cursor if self.pays > 0 else None

    def lanes(self, cursor: str) -> list[str]:
        """The cursors from which to walk at once: this one, and awaited batches at even distances behind."""
        ids = list(self.left)
        count = min(LANES, 1 + len(ids) // WAITS_A_LANE, self.pays)
        pages = -(-len(ids) // (PAGE * count))  # whole ones, so that no lane ends with a page for a few
        starts = ids[pages * PAGE - 1 : -1 : pages * PAGE]
        self._starts.update(starts)
        return [cursor, *starts]

    def jump(self) -> str | None:
        """The awaited batch to retrieve and go on behind, or None if the rest is better retrieved."""
        if len(self.left) < LIST_FROM or self.pays < 1 or self._fruitless_jumps >= FRUITLESS_JUMPS:
            return None
        start = next(iter(self.left))
        self._unasked.discard(start)
        if self.pays < 1:
            return None
        del self.left[start]
        return start

    def landed(self, saved_before: int) -> None:
        """Note what the first page behind a jump brought."""
        self._fruitless_jumps = 0 if self.saved > saved_before else self._fruitless_jumps + 1


def shown_on(page: BatchPage) -> list[Batch]:
    """The whole Batch objects of a page; one without a status says nothing about its batch."""
    return [batch for batch in page.data if batch.status != "unknown"]
