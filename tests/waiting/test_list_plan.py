"""How many requests a round takes, on accounts of every shape, without a network."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting_room import batch

from airflow_provider_openai_batches.api.models import Batch, BatchPage
from airflow_provider_openai_batches.polling.client import LONGEST_PAUSE, PER_SECOND, Pace
from airflow_provider_openai_batches.polling.list_plan import LIST_FROM, PAGE, PATIENCE, Walk
from airflow_provider_openai_batches.polling.lister import Lister
from airflow_provider_openai_batches.polling.poller import PolledBatch

NEVER = float("inf")
PATIENT = SimpleNamespace(wait=SimpleNamespace(next_in=lambda *_: 60.0, deadline=NEVER))


class Account:
    """A service's batches, the newest first, and how often it was asked for them."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = list(ids)
        self.hidden: set[str] = set()
        self.asked = self.pages = 0

    def page(self, after: str | None) -> BatchPage:
        start = 0 if after is None else self.ids.index(after) + 1
        listed = (batch_id for batch_id in self.ids[start:] if batch_id not in self.hidden)
        shown = [batch(batch_id, created_at=0) for batch_id in islice(listed, PAGE)]
        if shown:
            shown[0] = self.batch(shown[0].id)
        return BatchPage(shown, next(listed, None) is not None, last_id=shown[-1].id if shown else None)

    def batch(self, batch_id: str) -> Batch:
        """Created one after the other, a second apart."""
        return batch(batch_id, created_at=len(self.ids) - self.ids.index(batch_id))

    async def list_batches(self, after: str | None) -> BatchPage:
        self.asked += 1
        self.pages += 1
        await asyncio.sleep(0)  # lanes are under way together
        return self.page(after)


class Room:
    """The waits of one connection, an interval after the other."""

    def __init__(self, account: Account, wanted: list[str]) -> None:
        self.account = account
        self.polled: dict[str, PolledBatch] = {}
        self.seen: set[str] = set()
        self.lister = Lister(account, self.polled, self.deliver)  # type: ignore[arg-type]
        self.arrive(wanted)

    def arrive(self, wanted: list[str]) -> None:
        for batch_id in wanted:
            polled = self.polled[batch_id] = PolledBatch(batch_id)
            polled.waiters.append(PATIENT)  # type: ignore[arg-type]

    def leave(self, batch_id: str) -> None:
        del self.polled[batch_id]
        self.lister.forget(batch_id)

    def deliver(self, shown: Batch) -> None:
        if polled := self.polled.get(shown.id):
            self.seen.add(shown.id)
            polled.interval, polled.due = 60.0, NEVER

    async def retrieve(self, batch_id: str) -> None:
        self.account.asked += 1
        self.deliver(self.account.batch(batch_id))

    def round(self) -> int:
        """Return the requests for a look at each wait, but for those that can wait for their first look."""
        self.account.asked = 0
        self.seen.clear()
        new = {batch_id for batch_id, polled in self.polled.items() if polled.interval is None}
        for polled in self.polled.values():
            polled.due = 0.0

        asyncio.run(self.look())
        unseen = set(self.polled) - self.seen
        assert unseen <= new
        assert len(unseen) <= PATIENCE
        return self.account.asked

    async def look(self) -> None:
        """By pages, and then by retrieves, as a poller does it."""
        await self.lister.ask(time.monotonic())
        for polled in list(self.polled.values()):
            if polled.due == 0.0:
                await self.retrieve(polled.batch_id)


def others(count: int, name: str = "other") -> list[str]:
    return [f"{name}_{number}" for number in range(count)]


def ours(count: int) -> list[str]:
    return [f"batch_{number}" for number in range(count)]


@pytest.mark.parametrize(("count", "most"), [(8, 1), (100, 1), (1_000, 11), (2_000, 22), (10_000, 110)])
def test_what_was_created_last_takes_a_page_for_a_hundred(count: int, most: int) -> None:
    """Ten pages for a thousand waits, round for round."""
    wanted = ours(count)
    room = Room(Account(wanted), wanted[::-1])
    assert max(room.round() for _ in range(3)) <= most


def test_the_order_of_arrival_needs_not_be_that_of_creation() -> None:
    """Triggers start in any order after a restart."""
    wanted = ours(1_000)
    shuffled = random.Random(7).sample(wanted, len(wanted))  # noqa: S311 - no secret
    room = Room(Account(wanted), shuffled)
    assert room.round() <= 13
    assert room.round() == 10


def test_newer_batches_of_others_are_jumped_over() -> None:
    """A hundred thousand newer ones cost two requests once, not a thousand pages."""
    wanted = ours(1_000)
    room = Room(Account(others(20_000) + wanted), wanted[::-1])
    assert room.round() <= 14
    assert room.round() == 11


def test_groups_far_apart_are_each_jumped_to() -> None:
    """Four DAGs of the day, with others' batches between."""
    wanted = ours(800)
    ids = []
    for group in range(4):
        ids += [f"{group}_{name}" for name in others(2_000)] + wanted[group * 200 : group * 200 + 200]
    room = Room(Account(ids), wanted[::-1])
    assert room.round() < 20
    assert room.round() <= 12


def test_waits_strewn_thinly_are_retrieved_and_never_looked_for_again() -> None:
    """One on every second page: the walk ends with its first fruitless pages, whose requests others save."""
    wanted = ours(300)
    ids = [name for batch_id in wanted for name in [*others(199, f"other_{batch_id}"), batch_id]]
    account = Account(ids)
    room = Room(account, wanted[::-1])
    assert room.round() == 300
    assert 300 - len(room.seen) == account.pages == 2
    assert [room.round() for _ in range(3)] == [300, 300, 300]
    assert account.pages == 2


@pytest.mark.parametrize("known", [0, 6, 7])
def test_no_more_pages_show_none_than_waits_can_wait(known: int) -> None:
    """Some were looked at before and are not put off; the batch that a page begins behind is not either."""
    wanted = [f"batch_{number}" for number in range(known + 2)]
    account = Account([name for one in wanted for name in [*others(200, f"other_{one}"), one]])
    room = Room(account, [])
    for batch_id in wanted[: known - 1 : -1] if known else []:
        room.arrive([batch_id])
        assert room.round() == len(room.polled)
    assert account.pages == 0
    room.arrive([batch_id for batch_id in wanted if batch_id not in room.polled][::-1])
    assert room.round() <= len(wanted)


@settings(max_examples=300)
@given(
    st.integers(8, 1_500),
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_what_a_walk_loses_can_be_made_up_for(
    count: int, unasked: int, pages: list[tuple[int, int]], rng: random.Random
) -> None:
    """Whatever the pages show, and in whatever order those come that are under way together."""
    wanted = ours(count)
    left = set(rng.sample(wanted, min(unasked, count)))
    walk = Walk(wanted, left)
    walk.asks()
    under_way = 1
    for number, (lanes, found) in enumerate(pages):
        if not under_way:
            if (start := walk.jump()) is None:
                break
            left.discard(start)
            walk.asks()
            under_way = 1
        pool = sorted(left) if left and rng.random() < 0.5 else list(walk.left)
        shown = rng.sample(pool, min(found, len(pool)))
        left.difference_update(shown)
        cursor = walk.take(BatchPage([batch(one) for one in shown], has_more=True, last_id=f"end_{number}"))
        under_way -= 1
        for _ in (walk.lanes(cursor) if lanes else [cursor]) if cursor else []:
            walk.asks()
            under_way += 1
        assert walk.lost <= MOST_LOST
        assert walk.lost <= len(left) or not unasked


def test_a_lane_ends_where_nothing_would_make_up_for_those_under_way() -> None:
    """Two lanes, two waits that can wait: a page that shows one of these leaves one page to make up for."""
    walk = Walk(ours(700), {"batch_1", "batch_2"})
    walk.asks()
    cursor = walk.take(BatchPage([batch("batch_0")], has_more=True, last_id="x"))
    assert cursor
    assert len(walk.lanes(cursor)) == 2
    walk.asks()
    walk.asks()
    assert walk.take(BatchPage([batch("batch_1")], has_more=True, last_id="y")) is None


def test_only_the_first_page_of_all_begins_without_a_cursor() -> None:
    """One that was the first, and was pushed far down unseen, is retrieved; what is behind it is listed."""
    first = [f"batch_first_{number}" for number in range(10)]
    account = Account(first)
    room = Room(account, first[::-1])
    assert room.round() == 1
    later = [f"batch_later_{number}" for number in range(10)]
    account.ids[:0] = later + others(150)
    room.arrive(later[::-1])
    assert room.round() <= 3
    account.pages = 0
    assert room.round() == 3
    assert account.pages == 2


def test_two_that_were_the_first_of_all_are_retrieved() -> None:
    """A first page that turns out to show neither would be one request more than that takes."""
    wanted = ours(10)
    account = Account(wanted)
    room = Room(account, wanted[::-1])
    assert room.round() == 1
    for batch_id in wanted[3:]:
        room.leave(batch_id)
    assert room.round() == 1
    room.leave(wanted[2])
    account.ids[:0] = others(150)
    assert room.round() == 2


def test_one_that_is_due_alone_is_retrieved() -> None:
    """A page of a hundred takes as many requests, and a hundred times the bytes."""
    wanted = ours(100)
    account = Account(wanted)
    room = Room(account, wanted[::-1])
    room.round()
    room.polled["batch_50"].due = 0.0
    account.pages = 0
    asyncio.run(room.look())
    assert account.pages == 0


def test_what_the_list_no_longer_shows_is_retrieved_from_then_on() -> None:
    """A page that showed it before is not asked for it again."""
    wanted = ours(10)
    account = Account(wanted + others(10))
    room = Room(account, wanted[::-1])
    room.round()
    for batch_id in wanted[:8]:
        room.leave(batch_id)
    account.hidden.update(wanted[8:])
    assert room.round() == 3
    assert [room.round(), room.round()] == [2, 2]


def test_what_a_page_shows_together_is_asked_for_together() -> None:
    """A page is cut where the list has it, not where something is due: nobody stays out of step."""
    wanted = ours(300)
    room = Room(Account(wanted), wanted[::-1])
    room.round()
    for number, batch_id in enumerate(wanted):
        room.polled[batch_id].due = 0.0 if number % 3 == 1 else NEVER
    room.seen.clear()
    room.account.asked = 0
    asyncio.run(room.look())
    assert room.account.asked == 3
    assert room.seen == set(wanted)


def test_newer_batches_push_the_first_page_down() -> None:
    """What stood on it is found behind the newest that was shown, by one page as before."""
    wanted = ours(50)
    account = Account(wanted)
    room = Room(account, wanted[::-1])
    assert room.round() == 1
    account.ids[:0] = others(60)
    assert room.round() <= 2
    assert room.round() == 1


def test_waits_that_come_one_by_one_are_found_by_one_page() -> None:
    """The page that shows the eighth shows the seven before it too."""
    account = Account(others(200))
    room = Room(account, [])
    for number, batch_id in enumerate(ours(30), 1):
        account.ids.insert(0, batch_id)
        room.arrive([batch_id])
        assert room.round() <= min(number, 8)
    assert room.round() == 1


def test_a_few_behind_newer_ones_of_others_are_found() -> None:
    """Each time some come, in an account that is busy: a page for them, from then on."""
    account = Account(others(500))
    room = Room(account, [])
    for step in range(4):
        new = [f"batch_{step}_{number}" for number in range(10)]
        account.ids[:0] = others(150, f"other_{step}") + new
        room.arrive(new[::-1])
        assert room.round() <= 4 + 2 * step
    assert room.round() <= 4 * 2


def test_a_list_that_lags_is_looked_at_once_more() -> None:
    """For those that are newer than all that it showed."""
    wanted = ours(20)
    account = Account(wanted + others(500))
    account.hidden.update(wanted)
    room = Room(account, wanted[::-1])
    assert room.round() <= 20
    account.hidden.clear()
    assert room.round() == 1


def test_a_list_that_never_shows_them_is_left_alone() -> None:
    """After the second look each is retrieved."""
    wanted = ours(20)
    account = Account(wanted + others(500))
    account.hidden.update(wanted)
    room = Room(account, wanted[::-1])
    spent = [room.round() for _ in range(4)]
    assert spent[0] <= 20
    assert spent[2:] == [20, 20]
    assert account.pages == 4


def test_a_few_waits_are_retrieved() -> None:
    """A page of a hundred is no cheaper than seven batches."""
    wanted = ours(LIST_FROM - 1)
    account = Account(wanted)
    assert Room(account, wanted).round() == len(wanted)
    assert account.pages == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.booleans()), max_size=8),
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60), st.integers(0, 1_000)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_no_round_costs_more_than_a_retrieve_for_each_wait(
    groups: list[tuple[int, int, bool]],
    hidden: int,
    later: list[tuple[int, int, int]],
    rng: random.Random,
) -> None:
    """Whoever else uses the account, whoever comes and goes, and whatever the list never shows."""
    ids, wanted = [], []
    for group, (own, foreign, is_mixed) in enumerate(groups):
        names = [f"batch_{group}_{number}" for number in range(own)]
        mixed = names + others(foreign, f"other_{group}")
        if is_mixed:
            rng.shuffle(mixed)
        ids += mixed
        wanted += names
    rng.shuffle(wanted)
    account = Account(ids)
    # Not the newest ones: for those it is looked again, once, in case the list lags.
    account.hidden.update(
        rng.sample(wanted, min(hidden, len(wanted))) if ids and ids[0] not in wanted else []
    )
    room = Room(account, wanted)
    for step, (foreign, own, stay) in enumerate(later):
        assert room.round() <= len(room.polled)
        for batch_id in rng.sample(list(room.polled), max(0, len(room.polled) - stay)):
            room.leave(batch_id)
        new = [f"batch_later_{step}_{number}" for number in range(own)]
        mixed = new + others(foreign, f"other_later_{step}")
        rng.shuffle(mixed)
        account.ids[:0] = mixed
        room.arrive(new)
    assert room.round() <= len(room.polled)


def walk_of(*batch_ids: str) -> Walk:
    walk = Walk([*batch_ids, *ours(20)], unasked=["a"])
    walk.asks()
    return walk


def test_a_batch_that_is_shown_twice_counts_once() -> None:
    """A list that changes between two pages repeats what it pushed down."""
    walk = walk_of("a", "b")
    walk.take(BatchPage([batch("a"), batch("a"), batch("b")], has_more=True, last_id="b"))
    assert walk.saved == 1


def test_a_cursor_that_comes_again_ends_the_lane() -> None:
    """Else a broken server would be asked for ever."""
    walk = walk_of("a", "b", "c")
    page = BatchPage([batch("a"), batch("b")], has_more=True, last_id="b")
    assert walk.take(page) == "b"
    assert walk.take(BatchPage([batch("c")], has_more=True, last_id="b")) is None


@pytest.mark.parametrize(
    "page",
    [
        BatchPage([], has_more=True, last_id="z"),
        BatchPage([batch("a"), batch("b")]),
        BatchPage([], has_more=True),
        BatchPage([batch("a", "unknown"), batch("b", "unknown")], has_more=True, last_id="b"),
    ],
    ids=["empty", "no has_more", "nothing at all", "no statuses"],
)
def test_a_page_that_leads_nowhere_ends_the_lane(page: BatchPage) -> None:
    """What it did not show is retrieved."""
    walk = walk_of("a", "b")
    assert walk.take(page) is None
    assert len(walk.left) >= 20


def test_a_missing_last_id_is_the_last_of_the_page() -> None:
    """Some servers leave it out."""
    assert walk_of("a", "b").take(BatchPage([batch("a"), batch("b")], has_more=True)) == "b"


def test_requests_are_evenly_apart() -> None:
    """Fifty a second."""
    pace = Pace()
    turns = [pace.turn(100.0) for _ in range(51)]
    assert turns[0] == 0
    assert turns[50] == pytest.approx(50 / PER_SECOND)
    assert pace.turn(200.0) == 0


def test_a_429_stops_all_and_slows_down_and_good_answers_speed_up() -> None:
    """Retry-After counts, and those that were under way together count once."""
    pace = Pace()
    for _ in range(8):
        pace.slowed(99.0, 100.0, 7.0)
    assert pace.paused_until == 107.0
    assert [pace.turn(100.0), round(pace.turn(100.0), 3)] == [7.0, 7.04]
    for _ in range(20):
        pace.answered()
    pace.turn(200.0)
    assert pace.turn(200.0) == pytest.approx(1 / PER_SECOND)


def test_429s_without_an_end_pause_longer_and_longer() -> None:
    """Up to a minute, whatever the service says up to five."""
    pace, now, pauses = Pace(), 0.0, []
    for _ in range(9):
        pace.slowed(now, now, None)
        pauses.append(pace.paused_until - now)
        now = pace.paused_until
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    pace.slowed(now, now, 86_400.0)
    assert pace.paused_until - now == 300
