"""How many requests a round takes, on accounts of every shape, without a network."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting_room import batch

from airflow_provider_openai_batches.models import BatchPage
from airflow_provider_openai_batches.pace import LONGEST_PAUSE, PER_SECOND, Pace
from airflow_provider_openai_batches.rounds import LIST_FROM, PAGE, Standing, Walk


class Account:
    """A list of batches, the newest first, and how often it was asked."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.place = {batch_id: number for number, batch_id in enumerate(ids)}
        self.asked = 0

    def page(self, after: str | None) -> BatchPage:
        self.asked += 1
        start = 0 if after is None else self.place[after] + 1
        shown = self.ids[start : start + PAGE]
        more = start + PAGE < len(self.ids)
        return BatchPage([batch(batch_id) for batch_id in shown], more, last_id=shown[-1] if shown else None)


def round_of(account: Account, wanted: list[str], standing: Standing) -> int:
    """Drive one walk as the poller does, its lanes in turns; the requests of the round."""
    if not standing.is_worth(len(wanted)):
        for _ in wanted:
            standing.retrieved()
        return len(wanted)
    account.asked = retrieved = 0
    walk = Walk(wanted)
    start = None if standing.from_top else walk.jump()
    while True:
        if start:
            walk.left.pop(start)
            retrieved += 1
        saved = walk.saved
        cursor = walk.take(account.page(start))
        walk.began(start, saved)
        lanes = walk.lanes(cursor) if cursor else []
        while lanes:
            lanes = [after for lane in lanes if (after := walk.take(account.page(lane)))]
        start = walk.jump()
        if start is None:
            break
    standing.learn(walk)
    return account.asked + retrieved + len(walk.left)


def others(count: int) -> list[str]:
    return [f"other_{number}" for number in range(count)]


def ours(count: int) -> list[str]:
    return [f"batch_{number}" for number in range(count)]


@pytest.mark.parametrize(("count", "most"), [(8, 1), (100, 1), (1_000, 11), (2_000, 24), (10_000, 110)])
def test_what_was_created_last_takes_a_page_for_a_hundred(count: int, most: int) -> None:
    """Ten pages for a thousand waits, and one for the second lane."""
    wanted = ours(count)
    assert round_of(Account(wanted), wanted, Standing()) <= most


def test_the_order_of_arrival_needs_not_be_that_of_creation() -> None:
    """Triggers start in any order after a restart."""
    wanted = ours(1_000)
    shuffled = random.Random(7).sample(wanted, len(wanted))  # noqa: S311 - no secret
    assert round_of(Account(wanted), shuffled, Standing()) <= 13


def test_newer_batches_of_others_are_jumped_over() -> None:
    """A hundred thousand newer ones cost two requests, not a thousand pages."""
    wanted, standing = ours(1_000), Standing()
    account = Account(others(100_000) + wanted)
    assert round_of(account, wanted, standing) <= 14
    assert round_of(account, wanted, standing) <= 13


def test_groups_far_apart_are_each_jumped_to() -> None:
    """Four DAGs of the day, with others' batches between."""
    wanted, standing = ours(800), Standing()
    ids = []
    for group in range(4):
        ids += [f"{group}_{name}" for name in others(5_000)] + wanted[group * 200 : group * 200 + 200]
    account = Account(ids)
    assert max(round_of(account, wanted, standing) for _ in range(3)) < 40


def test_waits_strewn_thinly_are_retrieved_and_the_list_is_looked_at_ever_more_rarely() -> None:
    """One in a hundred: a page shows no more than a retrieve."""
    rng = random.Random(3)  # noqa: S311 - no secret
    wanted = ours(1_000)
    account = Account(sorted(others(100_000) + wanted, key=lambda _: rng.random()))
    wanted.sort(key=lambda batch_id: account.place[batch_id])
    standing = Standing()
    rounds = [round_of(account, wanted, standing) for _ in range(30)]
    assert max(rounds) <= 1_002
    assert sum(rounds) <= 30 * 1_000 + 8


def test_a_few_waits_are_retrieved() -> None:
    """A page of a hundred is no cheaper than seven batches."""
    wanted = ours(LIST_FROM - 1)
    account = Account(wanted)
    assert round_of(account, wanted, Standing()) == len(wanted)
    assert account.asked == 0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=12),
    st.randoms(use_true_random=False),
    st.integers(0, 30),
)
def test_no_account_costs_more_than_a_retrieve_for_each_wait(
    groups: list[tuple[int, int]], rng: random.Random, deleted: int
) -> None:
    """But for the one or two pages that find out, and those are taken ever more rarely."""
    ids, wanted = [], []
    for group, (own, foreign) in enumerate(groups):
        names = [f"batch_{group}_{number}" for number in range(own)]
        mixed = names + [f"other_{group}_{number}" for number in range(foreign)]
        if rng.random() < 0.5:
            rng.shuffle(mixed)
        ids += mixed
        wanted += names
    missing = set(rng.sample(wanted, min(deleted, len(wanted))))
    rng.shuffle(wanted)
    account = Account([batch_id for batch_id in ids if batch_id not in missing])
    account.place |= dict.fromkeys(missing, len(ids))
    standing = Standing()
    spent = [round_of(account, wanted, standing) for _ in range(4)]
    assert max(spent) <= len(wanted) + 2
    assert sum(spent) <= 4 * len(wanted) + 4


def walk_of(*batch_ids: str) -> Walk:
    return Walk([*batch_ids, *ours(20)])


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
