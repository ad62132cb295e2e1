"""
PURE: which requests ask for many batches in the fewest requests.

``GET /batches`` shows 100 batches a page, newest first, and any batch's id serves as the cursor. So a round
walks the pages from the newest batch or from an awaited one, in several lanes at once, as long as they show
more than they cost; what they did not show is retrieved.

https://developers.openai.com/api/reference/resources/batches/methods/list
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.models import Batch, BatchPage

PAGE = 100
# So many waits are worth a look at a page; fewer are retrieved.
LIST_FROM = 8
# With so many, it is worth one more page to find out where in the list they are.
JUMP_FROM = 50
LANES = 8
WAITS_A_LANE = 600
FRUITLESS_JUMPS = 2
# After a walk that saved nothing so many rounds go by retrieves alone, twice as many each time.
ROUNDS_BETWEEN = 2
MOST_ROUNDS_BETWEEN = 128


class Walk:
    """
    One round's way through the list.

    :param wanted: ids, as far as known the newest first.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self.left: dict[str, None] = dict.fromkeys(wanted)
        self.wanted = len(self.left)
        self.pages = 0
        self.saved = 0
        self.broken = False
        self.top_is_rich = False
        self._may_lose = 1 if len(self.left) < JUMP_FROM else 2
        self._fruitless_jumps = 0
        self._starts: set[str] = set()
        self._cursors: set[str] = set()

    @property
    def may_go_on(self) -> bool:
        """Whether one more page, even an empty one, is paid for by what the others saved."""
        return not self.broken and self.saved + self._may_lose > 0

    def take(self, page: BatchPage) -> str | None:
        """Count what a page shows; the cursor of the next one, or None if the lane ends here."""
        shown = shown_on(page)
        found = 0
        for batch in shown:
            if batch.id in self.left:
                del self.left[batch.id]
                found += 1
        self.pages += 1
        self.saved += found - 1
        cursor = page.last_id or (page.data[-1].id if page.data else None)
        if not cursor or not page.has_more or cursor in self._cursors:
            return None
        self._cursors.add(cursor)
        if not found or not self.left or not self._starts.isdisjoint(batch.id for batch in shown):
            return None
        return cursor if self.may_go_on else None

    def lanes(self, cursor: str) -> list[str]:
        """The cursors from which to walk at once: this one, and awaited batches at even distances behind."""
        ids = list(self.left)
        count = min(LANES, 1 + len(ids) // WAITS_A_LANE)
        pages = -(-len(ids) // (PAGE * count))  # whole ones, so that no lane ends with a page for a few
        starts = ids[pages * PAGE - 1 :: pages * PAGE]
        self._starts.update(starts)
        return [cursor, *starts]

    def jump(self) -> str | None:
        """The awaited batch to go on behind, or None if the rest is better retrieved."""
        if len(self.left) < LIST_FROM or not self.may_go_on or self._fruitless_jumps >= FRUITLESS_JUMPS:
            return None
        return next(iter(self.left))

    def began(self, start: str | None, saved_before: int) -> None:
        """Note what the first page behind ``start`` (None: the top) brought."""
        fruitful = self.saved > saved_before
        if start is None:
            self.top_is_rich = fruitful
        else:
            self._fruitless_jumps = 0 if fruitful else self._fruitless_jumps + 1


class Standing:
    """What the rounds so far say about the list of this account."""

    def __init__(self) -> None:
        self.from_top = True
        self._retrieves_left = 0
        self._rounds_between = ROUNDS_BETWEEN

    def is_worth(self, wanted: int) -> bool:
        return wanted >= LIST_FROM and self._retrieves_left <= 0

    def retrieved(self) -> None:
        self._retrieves_left -= 1

    def learn(self, walk: Walk) -> None:
        """Go on listing after a walk that saved requests, else retrieve for a while."""
        if walk.saved >= walk.pages:
            self._rounds_between = ROUNDS_BETWEEN
        if walk.saved > 0:
            self.from_top = walk.top_is_rich
            return
        self.from_top = True
        self._retrieves_left = self._rounds_between * walk.wanted
        self._rounds_between = min(self._rounds_between * 2, MOST_ROUNDS_BETWEEN)


def shown_on(page: BatchPage) -> list[Batch]:
    """The whole Batch objects of a page; one without a status says nothing about its batch."""
    return [batch for batch in page.data if batch.status != "unknown"]
