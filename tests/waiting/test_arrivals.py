"""How many requests a round takes in the end, in whatever order the waits arrived, without a network."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest
from account import Account, Room, others, ours
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_openai_batches.api.models import BatchPage
from airflow_provider_openai_batches.polling.list_plan import HEAD_AFTER, LIST_FROM, PAGE, Chart

if TYPE_CHECKING:
    import random
    from collections.abc import Container

T = TypeVar("T")

PORTION = 50
# What is done once is done after so many rounds.
SETTLED = 2 * HEAD_AFTER


def fewest_requests(account: Account, awaited: Container[str]) -> int:
    """
    The fewest requests that ask about each, for someone who knows the order of the whole list.

    A page begins at the top of the list or after an awaited batch, because no other id is known for certain.
    """
    places = [number for number, batch_id in enumerate(account.ids) if batch_id in awaited]
    if len(places) < LIST_FROM:
        return len(places)
    fewest = [0] * (len(places) + 1)
    for index in range(len(places) - 1, -1, -1):
        cursor = places[index - 1] if index else -1
        fewest[index] = 1 + fewest[max(index + 1, bisect_right(places, cursor + PAGE))]
    return fewest[0]


def steady(room: Room) -> int:
    """How many requests each of the later rounds takes."""
    for _ in range(SETTLED):
        assert room.round() <= len(room.polled)
    rounds = [room.round() for _ in range(3)]
    assert len(set(rounds)) == 1, rounds
    return rounds[0]


@pytest.mark.parametrize("a_second", [1, 20, 1_000])
@pytest.mark.parametrize("newer", [0, 150], ids=["at the top", "below others"])
@pytest.mark.parametrize("inside", [1, -1], ids=["newest first inside", "oldest first inside"])
@pytest.mark.parametrize("step", [1, 2], ids=["one triggerer", "two triggerers"])
def test_portions_that_arrive_newest_first_are_listed(
    step: int, inside: int, newer: int, a_second: int
) -> None:
    """A triggerer claims fifty at a time, and each of two triggerers gets every other fifty."""
    wanted = ours(1_000)
    account = Account(others(newer) + wanted, lambda number: 1_000_000 + number // a_second)
    room = Room(account, [])
    for begin in range(0, 1_000, PORTION * step):
        room.arrive(wanted[begin : begin + PORTION][::inside])
        assert room.round() <= len(room.polled)
    assert fewest_requests(account, room.polled) in {10, 11}
    assert steady(room) <= 11


@pytest.mark.parametrize("inside", [1, -1])
@pytest.mark.parametrize("a_second", [1, 50])
def test_one_portion_that_the_first_pages_miss_is_found_later(a_second: int, inside: int) -> None:
    """When they were created is known after their first look; that of two waits is put off once more."""
    wanted = ours(PORTION)
    account = Account(others(1_000) + wanted, lambda number: 1_000_000 + number // a_second)
    room = Room(account, wanted[::inside])
    assert room.round() <= PORTION
    assert steady(room) == 2


def test_a_dense_group_among_thinly_strewn_ones_is_found() -> None:
    """The smallest distance in time says where to look."""
    strewn = [name for number in range(30) for name in [*others(150, f"other_{number}"), f"batch_{number}"]]
    dense = [f"batch_dense_{number}" for number in range(10)]
    account = Account(strewn[:1_500] + dense + strewn[1_500:])
    room = Room(account, [batch_id for batch_id in account.ids if batch_id.startswith("batch")])
    assert steady(room) <= 32


def test_a_gap_between_waits_is_looked_into_once() -> None:
    """Two groups far apart: whether one page shows the end of the one and the beginning of the other."""
    wanted = ours(100)
    account = Account(others(200) + wanted[:50] + others(500, "between") + wanted[50:])
    room = Room(account, wanted[::-1])
    rounds = [room.round() for _ in range(SETTLED)]
    assert rounds[-1] == 4
    assert sorted(rounds[1:])[-2:] == [4, 5]


def test_stretches_of_the_list_that_a_page_shows_parts_of_are_joined() -> None:
    """Also the part that the page no longer shows: otherwise it takes a page of its own."""
    names = ours(110)
    account = Account(["before", *names[:10], "between", *names[10:]])
    chart = Chart()
    for turn, cursor in enumerate(["before", "between", names[5]], 1):
        page = account.page(cursor)
        shown = page.data[:10] if cursor == "before" else page.data
        chart.note(BatchPage(shown, has_more=True, last_id=shown[-1].id), cursor, names, turn)
    assert [len(window.batch_ids) for window in chart.windows()] == [99, 11]


class Arrivals(NamedTuple):
    """
    How the waits arrive.

    :param order: that of the portions; ``interleaved`` ones have each a part of every page.
    :param inside: the order in each portion.
    """

    size: int
    order: str
    inside: str
    triggerers: int

    def portions(self, newest_first: list[str], rng: random.Random) -> list[list[str]]:
        """Cut the batches into portions, those of one triggerer in the order of their arrival."""
        count = -(-len(newest_first) // self.size)
        portions = [newest_first[number * self.size :][: self.size] for number in range(count)]
        if self.order == "interleaved":
            portions = [newest_first[number::count] for number in range(count)]
        portions = in_order(portions[:: self.triggerers], self.order, rng)
        return [in_order(portion, self.inside, rng) for portion in portions]


def in_order(newest_first: list[T], order: str, rng: random.Random) -> list[T]:
    if order == "newest first":
        return newest_first
    if order == "oldest first":
        return newest_first[::-1]
    return rng.sample(newest_first, len(newest_first))


ORDERS = ["newest first", "oldest first", "random"]


def list_of(groups: list[tuple[int, int, bool]], a_second: int, rng: random.Random) -> Account:
    """
    Make an account of groups of awaited batches with batches of others between them.

    Others are created a second apart. So are the batches of a group that is mixed with them; those of another
    group are created ``a_second`` at a time.
    """
    oldest_first: list[tuple[str, int]] = []
    now = 1_000_000
    for group, (own, foreign, is_mixed) in enumerate(groups):
        names = [f"batch_{group}_{number}" for number in range(own)]
        foreigners = others(foreign, f"other_{group}")
        if is_mixed:
            foreigners = rng.sample(names + foreigners, own + foreign)
            names = []
        oldest_first += [(name, now + number // a_second) for number, name in enumerate(names)]
        now += len(names) // a_second + 1
        oldest_first += [(name, now + number) for number, name in enumerate(foreigners)]
        now += len(foreigners) + 1
    times = [at for _, at in oldest_first]
    return Account([name for name, _ in reversed(oldest_first)], lambda number: times[number - 1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 250), st.integers(0, 250), st.booleans()), min_size=1, max_size=5),
    st.sampled_from([1, 7, 100, 1_000]),
    st.builds(
        Arrivals,
        st.just(PORTION) | st.integers(1, 200),
        st.sampled_from([*ORDERS, "interleaved"]),
        st.sampled_from(ORDERS),
        st.integers(1, 2),
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_does_not_matter_in_the_end(
    groups: list[tuple[int, int, bool]], a_second: int, arrivals: Arrivals, rng: random.Random
) -> None:
    """No round takes more requests than there are waits, and later ones a page more than the fewest."""
    account = list_of(groups, a_second, rng)
    room = Room(account, [])
    wanted = [batch_id for batch_id in account.ids if batch_id.startswith("batch")]
    for portion in arrivals.portions(wanted, rng):
        room.arrive(portion)
        assert room.round() <= len(room.polled)
    assert steady(room) <= fewest_requests(account, room.polled) + 1
