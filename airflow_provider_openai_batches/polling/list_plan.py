"""
Plans how to ask about many batches with the fewest requests. Nothing here sends a request.

``GET /batches`` shows 100 batches a page, newest first, and the id of any batch serves as a cursor. The list
only grows at its top, so the batches after any given one stay the same. A :class:`Chart` remembers where
pages showed awaited batches, and so knows in advance which pages show several of them. A :class:`Walk` finds
those that are not on the chart yet.

No round takes more requests than retrieving each batch would. To make up for a page that shows no awaited
batch, a batch that was never polled is first polled an interval later.

Batches newer than all that the list showed are looked for once more, because a list can lag. That walk alone
may take two requests too many, once.

https://developers.openai.com/api/reference/resources/batches/methods/list
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from airflow_provider_openai_batches.api.models import Batch, BatchPage

PAGE = 100
# Fewer batches than this are retrieved one by one without a look at the list.
LIST_FROM = 8
# The first page may no longer show the batches that it showed before. They then take a retrieve and a page.
FIRST_PAGE_FROM = 3
# A walk asks for at most LANES pages at once: for one, and for one more per WAITS_A_LANE batches to find.
# More lanes would be quicker, but where the order of the batches is not known they overlap more often.
LANES = 10
WAITS_A_LANE = 500
# A walk may waste this many requests, or take this many steps in a row without saving one.
PATIENCE = 2


class Place(NamedTuple):
    """
    Where the list shows a batch: its number in a stretch of the list, counted from the newest.

    ``before`` is the batch listed right before it, and so the cursor of a page that begins with it. The
    newest of all has none.
    """

    stretch: int
    number: int
    before: str | None


class Window(NamedTuple):
    """
    A page that shows the batches named, and perhaps others.

    Without a cursor it is the first page: newer batches may have pushed all of them down.
    """

    cursor: str | None
    batch_ids: list[str]

    @property
    def pays_from(self) -> int:
        """From how many batches on the page takes fewer requests than retrieving each."""
        return 2 if self.cursor else FIRST_PAGE_FROM


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
        """Note where a page shows awaited batches; ``after`` is its cursor."""
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
        Return the fewest pages that show two or more of the batches each, without overlap.

        They cover all batches, due or not, so that what a page shows together stays together.
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
        """Return the place of a page's first batch: next to a batch already placed, or in a new stretch."""
        for offset, batch_id in enumerate([after, *ids], -1):
            if batch_id in self._places:
                place = self._places[batch_id]
                return place.stretch, place.number - offset
        self._stretches += 1
        return self._stretches, 0


class Walk:
    """
    The search for batches that are not on the chart, for as long as pages save requests.

    :param wanted: ids, as far as known the newest first.
    :param payers: those among them that can each make up for one wasted page.
    """

    def __init__(self, wanted: Iterable[str], payers: Iterable[str]) -> None:
        self.left = dict.fromkeys(wanted)
        self.payers = dict.fromkeys(payers)
        self.lost = 0
        """Pages asked for minus batches found; below zero, the walk has saved requests."""
        self.has_failed = False
        self._lost_before: float = float("inf")
        self._misses = 0
        self._ends: list[str | None] = [None]
        self._passed: set[str | None] = set()

    def cursors(self) -> list[str | None]:
        """Return the cursors of the pages to ask for next; none if it is better to retrieve the rest."""
        self._misses = 0 if self.lost < self._lost_before else self._misses + 1
        self._lost_before = self.lost
        # Even if all of these pages show nothing, the payers make up for them.
        room = min(LANES, min(PATIENCE, len(self.payers)) - self.lost)
        if not self.left or self._misses >= PATIENCE or room < 1:
            return []
        ends = [end for end in self._ends if end not in self._passed]
        if ends and self.lost < 0:
            ends += self._starts(min(room, 1 + len(self.left) // WAITS_A_LANE) - len(ends))
        if not ends and len(self.left) >= LIST_FROM and not self.has_failed:
            ends += [batch_id for batch_id in self.left if batch_id not in self._passed][:1]
        self._ends = ends[room:]
        return ends[:room]

    def take(self, cursor: str | None, page: BatchPage | None) -> None:
        """Note what the page after a cursor shows; None is a page that could not be read."""
        self.lost += 1
        self._passed.add(cursor)
        if page is None:
            self.has_failed = True
            return
        found = {batch.id for batch in shown_on(page)}.intersection(self.left)
        for batch_id in found:
            del self.left[batch_id]
            self.payers.pop(batch_id, None)
            self.lost -= 1
        ids = [batch.id for batch in page.data]
        self._passed.update(ids[:-1])
        end = page.last_id or next(reversed(ids), None)
        if len(found) > 1 and page.has_more and end:
            self._ends.append(end)

    def _starts(self, count: int) -> list[str]:
        """Return awaited batches at even distances, as cursors of pages to ask for at the same time."""
        if count < 1:
            return []
        ids = list(self.left)
        step = PAGE * -(-len(ids) // (PAGE * (count + 1)))  # whole pages, so that no page has only a few
        return [batch_id for batch_id in ids[step - 1 : -1 : step] if batch_id not in self._passed]


def shown_on(page: BatchPage) -> list[Batch]:
    """Return a page's batches, without those that have no status: they tell nothing."""
    return [batch for batch in page.data if batch.status != "unknown"]
