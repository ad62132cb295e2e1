"""
Plans how to ask about many batches with the fewest requests. Nothing here sends a request.

``GET /batches`` shows 100 batches a page, newest first, and the id of any batch serves as a cursor. The list
only grows at its top, so the batches after any given one stay the same. A :class:`Chart` remembers where
pages showed awaited batches, and so knows in advance which pages show several of them.

Two searches fill the chart. A :class:`Walk` looks for new waits from the top of the list, and if they are not
there, from the latest of them, because triggers mostly start in the order of creation. Once a batch was
polled, ``created_at`` says where it stands, and :func:`probes` names the pages that could show what the walks
have missed, in whatever order the waits arrived.

No round takes more requests than retrieving each batch would. A page that shows no awaited batch is paid by
what other pages of the round have saved; otherwise a batch that was never polled is first polled an interval
later. One that a walk has put off may be put off once more, for a page that ``created_at`` suggests.

Batches newer than all that the list showed are looked for once more, because a list can lag. That walk alone
may take two requests too many, once.

https://developers.openai.com/api/reference/resources/batches/methods/list
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from airflow_provider_openai_batches.api.models import Batch, BatchPage

PAGE = 100
# Fewer batches than this are retrieved one by one without a look at the list.
LIST_FROM = 8
# The first page may no longer show the batches that it showed before. They then take a retrieve and a page.
FIRST_PAGE_FROM = 3
# A single batch that takes a retrieve beside the pages of its neighbours costs little. A page that might show
# it with them is asked for only if it has been awaited for this many turns.
HEAD_AFTER = 3
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


class End(NamedTuple):
    """The last batch that pages showed of a stretch, awaited or not. The next page may begin after it."""

    number: int
    batch_id: str


class Chart:
    """Where the awaited batches stand in the list, as far as pages have shown it."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._ends: dict[int, End] = {}
        self._asked: dict[str | None, int] = {}
        self._stretches = 0
        self._top: str | None = None
        self._windows: list[Window] | None = None
        self._heads: set[str] = set()

    def __contains__(self, batch_id: str) -> bool:
        return batch_id in self._places

    def forget(self, batch_id: str) -> None:
        self._asked.pop(batch_id, None)
        if self._places.pop(batch_id, None):
            self._windows = None

    def note(self, page: BatchPage, after: str | None, awaited: Container[str], turn: int) -> None:
        """
        Note where a page shows awaited batches.

        :param after: the page's cursor.
        :param turn: a number that grows with time.
        """
        ids = [batch.id for batch in page.data]
        stretch, number = self._join(ids, after)
        before = after
        if after is None:
            self._top = next(iter(ids), None)
        if after is None or after in awaited:
            self._asked[after] = turn
        if after and after in awaited and after not in self._places:
            self._put(after, Place(stretch, number - 1, None))
        for batch_id in ids:
            if batch_id in awaited:
                self._put(batch_id, Place(stretch, number, before))
            before, number = batch_id, number + 1
        end = self._ends.get(stretch)
        if ids and (end is None or end.number < number):
            self._ends[stretch] = End(number - 1, ids[-1])

    def windows(self) -> list[Window]:
        """
        Return the fewest pages that show two or more of the batches each, without overlap.

        They cover all batches, due or not, so that what a page shows together stays together.
        """
        return [window for window in self._cut() if len(window.batch_ids) > 1]

    def is_head(self, batch_id: str) -> bool:
        """Whether it is not known what is listed before the batch, so that none of the windows shows it."""
        self._cut()
        return batch_id in self._heads

    def cursors(self, batch_ids: Iterable[str]) -> list[str]:
        """
        Return the cursors of the pages that could show what follows these.

        That is each one without a place, and of each stretch the oldest. The less is known of what follows,
        the earlier it comes.
        """
        found: dict[int | str, str] = {}
        for one in batch_ids:
            place = self._places.get(one)
            other = found.setdefault(place.stretch if place else one, one)
            if place and place.number > self._places[other].number:
                found[place.stretch] = one
        return sorted(found.values(), key=self._known_after)

    def are_joined(self, one: str, other: str) -> bool:
        """Whether it is known how many batches stand between the two."""
        first, second = self._places.get(one), self._places.get(other)
        return bool(first and second and first.stretch == second.stretch)

    def asked(self, cursor: str | None) -> int:
        """Return in which turn the page after this batch was last asked for; 0 is never."""
        return self._asked.get(cursor, 0)

    def _known_after(self, batch_id: str) -> int:
        place = self._places.get(batch_id)
        end = self._ends.get(place.stretch) if place else None
        return end.number - place.number if place and end else 0

    def _put(self, batch_id: str, place: Place) -> None:
        if place != self._places.get(batch_id):
            self._places[batch_id] = place
            self._windows = None

    def _cut(self) -> list[Window]:
        if self._windows is not None:
            return self._windows
        found: list[Window] = []
        end = (0, 0)
        last: dict[int, str] = {}
        self._heads = set()
        for batch_id, place in sorted(self._places.items(), key=lambda one: one[1][:2]):
            stretch, number, cursor = place
            previous = last.get(stretch)
            last[stretch] = batch_id
            if (stretch, number) < end:
                found[-1].batch_ids.append(batch_id)
                continue
            begin = number
            if not cursor and previous and number <= self._places[previous].number + PAGE:
                cursor, begin = previous, self._places[previous].number + 1
            if cursor or batch_id == self._top:
                found.append(Window(cursor, [batch_id]))
                end = (stretch, begin + PAGE)
            else:
                self._heads.add(batch_id)
        self._ends = {stretch: shown for stretch, shown in self._ends.items() if stretch in last}
        self._windows = found
        return found

    def _join(self, ids: list[str], after: str | None) -> tuple[int, int]:
        """
        Return the place of a page's first batch: in a stretch that the page shows a part of, or a new one.

        All stretches that the page shows parts of become one.
        """
        ends = {end.batch_id: (stretch, end.number) for stretch, end in self._ends.items()}
        begins: dict[int, int] = {}
        for offset, batch_id in enumerate([after, *ids], -1):
            if batch_id and (known := self._places.get(batch_id, ends.get(batch_id))):
                begins.setdefault(known[0], known[1] - offset)
        if not begins:
            self._stretches += 1
            return self._stretches, 0
        (stretch, number), *others = begins.items()
        self._move({other: number - begin for other, begin in others}, stretch)
        return stretch, number

    def _move(self, shifts: dict[int, int], stretch: int) -> None:
        """Count the batches of other stretches as part of this one."""
        if not shifts:
            return
        for batch_id, place in self._places.items():
            if place.stretch in shifts:
                self._places[batch_id] = Place(stretch, place.number + shifts[place.stretch], place.before)
        for other, shift in shifts.items():
            end = self._ends.pop(other, None)
            mine = self._ends.get(stretch)
            if end and (mine is None or mine.number < end.number + shift):
                self._ends[stretch] = End(end.number + shift, end.batch_id)
        self._windows = None


class Probe(NamedTuple):
    """
    A page that could show batches without a place, created ``gap`` seconds before its cursor.

    ``is_tried`` is whether it was asked for since they are awaited, and so does not show them.
    """

    gap: float
    cursor: str | None
    is_tried: bool


def probes(chart: Chart, created: Mapping[str, int], since: Mapping[str, int], turn: int) -> Iterator[Probe]:
    """
    Yield the pages that could show batches without a place or before which nothing is known, newest first.

    Each is looked for after the batches that were created in the second before it, of those awaited, and in
    its own: batches of one second may stand in any order. Once all of these were asked for, no plan is better
    than the windows, except one that knows the ids of others' batches.

    :param created: when each awaited batch was created, as far as known.
    :param since: the turn from which on each of them is awaited.
    """
    seconds: dict[int, list[str]] = {}
    for batch_id, at in created.items():
        seconds.setdefault(at, []).append(batch_id)
    newer: list[str] = []
    newer_at = float("inf")
    for at, group in sorted(seconds.items(), reverse=True):
        targets = [
            one
            for one in group
            if one not in chart or (since[one] + HEAD_AFTER <= turn and chart.is_head(one))
        ]
        if targets:
            latest = max(since[one] for one in targets)
            for cursor in chart.cursors(newer) if newer else [None]:
                yield Probe(newer_at - at, cursor, latest <= chart.asked(cursor))
            for cursor in chart.cursors(group) if len(group) > 1 else []:
                # Asked for itself too: the page may show that it stands between others that have a place.
                needs = (since[one] for one in targets if one == cursor or not chart.are_joined(one, cursor))
                if max(needs, default=0) > chart.asked(cursor):
                    yield Probe(0.0, cursor, is_tried=False)
        newer, newer_at = group, at


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
        # A few are looked for only while nothing was saved: later savings pay for a search.
        enough = LIST_FROM if self.lost < 0 else FIRST_PAGE_FROM
        if not ends and len(self.left) >= enough and not self.has_failed:
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
