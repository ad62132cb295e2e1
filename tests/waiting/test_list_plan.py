"""How many requests a round takes, on accounts of every shape, without a network."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

import pytest
from account import NEVER, Account, Room, others, ours
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_openai_batches.exceptions import APIError, TransportError
from airflow_provider_openai_batches.polling import lister
from airflow_provider_openai_batches.polling.list_plan import LIST_FROM


@pytest.mark.parametrize(("count", "most"), [(8, 1), (100, 1), (1_000, 11), (2_000, 22), (10_000, 110)])
def test_what_was_created_last_takes_a_page_for_a_hundred(count: int, most: int) -> None:
    """A thousand waits take ten pages in every round."""
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
    """20,000 newer ones cost a few requests in the first round and one in later rounds, not 200 pages."""
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
    """One wait on every second page: the walk ends after two fruitless pages, which two put-off looks pay."""
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
    """Waits that were polled before are not put off, nor is the batch that is a page's cursor."""
    wanted = [f"batch_{number}" for number in range(known + 2)]
    account = Account([name for one in wanted for name in [*others(200, f"other_{one}"), one]])
    room = Room(account, [])
    for batch_id in wanted[: known - 1 : -1] if known else []:
        room.arrive([batch_id])
        assert room.round() == len(room.polled)
    assert account.pages == 0
    room.arrive([batch_id for batch_id in wanted if batch_id not in room.polled][::-1])
    assert room.round() <= len(wanted)


def test_only_the_first_page_of_all_begins_without_a_cursor() -> None:
    """A first batch that newer ones have pushed far down is retrieved; the older ones after it are listed."""
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
    """Asking for a first page that shows neither of them would cost one request more."""
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
    """The page that used to show it is not requested for it again."""
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
    """A page shows waits that are not yet due as well as those that are, so they become due together."""
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
    """One page after the newest batch that was shown finds what the first page used to show."""
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
    """A few arrive at a time in a busy account; from then on one page shows them."""
    account = Account(others(500))
    room = Room(account, [])
    for step in range(4):
        new = [f"batch_{step}_{number}" for number in range(10)]
        account.ids[:0] = others(150, f"other_{step}") + new
        room.arrive(new[::-1])
        assert room.round() <= 4 + 2 * step
    assert room.round() <= 4 * 2


def test_what_the_list_does_not_show_is_looked_for_once() -> None:
    """And once more, because these are newer than all that it shows. After that each is retrieved."""
    wanted = ours(20)
    account = Account(wanted + others(500))
    account.hidden.update(wanted)
    room = Room(account, wanted[::-1])
    assert [room.round() for _ in range(4)] == [20, 22, 20, 20]
    assert account.pages == 4


def test_a_list_that_lags_is_used_when_it_has_caught_up() -> None:
    """Batches created together, all before the list shows the first of them."""
    wanted = ours(300)
    account = Account(wanted + others(150))
    account.hidden.update(wanted)
    room = Room(account, wanted[::-1])
    assert room.round() == 300
    account.hidden.clear()
    room.round()
    assert room.round() == 3


def test_what_the_list_shows_later_is_listed_from_then_on() -> None:
    """The walk for newer waits has a page that shows the older ones too."""
    wanted = ours(20)
    account = Account(wanted + others(500))
    account.hidden.update(wanted)
    room = Room(account, wanted[::-1])
    assert room.round() == 20
    account.hidden.clear()
    newer = [f"batch_newer_{number}" for number in range(10)]
    account.ids[:0] = newer
    room.arrive(newer[::-1])
    assert [room.round(), room.round()] == [1, 1]


def test_a_list_that_breaks_after_it_has_worked_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages are asked for once more, and then left alone while all batches are retrieved."""
    monkeypatch.setattr(lister, "PAGE_AGAIN_AFTER", 0.0)
    monkeypatch.setattr(lister, "WALK_AGAIN_AFTER", 0.2)
    wanted = ours(1_000)
    account = Account(wanted)
    room = Room(account, wanted[::-1])
    room.round()
    account.fault, account.pages = TransportError("no answer"), 0
    assert room.round() == 1_000 + 20  # each of the ten pages twice
    assert room.round() == 1_000
    account.fault = None
    time.sleep(0.2)
    assert room.round() == 10


def test_a_broken_list_of_very_many_is_left_alone_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred pages only those under way are asked for."""
    monkeypatch.setattr(lister, "PAGE_AGAIN_AFTER", 0.0)
    wanted = ours(10_000)
    account = Account(wanted)
    room = Room(account, wanted[::-1])
    room.round()
    account.fault, account.pages = TransportError("no answer"), 0
    room.round()
    assert account.pages <= 40


def test_the_walks_of_a_broken_list_get_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a list is asked for one ever less often."""
    monkeypatch.setattr(lister, "PAGE_AGAIN_AFTER", 0.0)
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    wanted = ours(LIST_FROM)
    account = Account(wanted)
    account.fault = TransportError("no answer")
    room = Room(account, wanted)
    walks = []
    for _ in range(200):
        before, account.pages = now[0], 0
        room.round()
        walks += [before] if account.pages else []
        now[0] += 60.0
    pauses = [later - earlier for earlier, later in itertools.pairwise(walks)]
    assert pauses == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]


def test_a_page_that_is_refused_is_not_asked_for_again() -> None:
    """The client has waited out a 429 already."""
    wanted = ours(100)
    account = Account(wanted)
    account.fault = APIError("slow down", status=429)
    with pytest.raises(APIError):
        Room(account, wanted).round()
    assert account.pages == 1


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
    account.hidden.update(rng.sample(wanted, min(hidden, len(wanted))))
    account.hidden.difference_update(
        ids[:1]
    )  # what is newer than all that is shown is looked for a second time
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
