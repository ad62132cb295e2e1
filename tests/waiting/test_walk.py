"""The search through the list for new waits, page by page, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from account import ours
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting_room import batch

from airflow_provider_openai_batches.api.models import BatchPage
from airflow_provider_openai_batches.polling.list_plan import LANES, PAGE, PATIENCE, Walk

if TYPE_CHECKING:
    import random


def page_of(*batch_ids: str, last_id: str | None = None, has_more: bool = True) -> BatchPage:
    return BatchPage([batch(one) for one in batch_ids], has_more=has_more, last_id=last_id)


@settings(max_examples=300)
@given(
    st.integers(8, 1_500),
    st.integers(0, 4),
    st.lists(st.integers(0, 3), max_size=60),
    st.randoms(use_true_random=False),
)
def test_what_a_walk_loses_can_be_made_up_for(
    count: int, new: int, pages: list[int], rng: random.Random
) -> None:
    """Whatever the pages show, and in whatever order pages arrive that were requested together."""
    wanted = ours(count)
    walk = Walk(wanted, rng.sample(wanted, new) or wanted)
    asked: list[str | None] = []
    while cursors := walk.cursors():
        assert walk.lost + len(cursors) <= min(PATIENCE, len(walk.payers))
        for cursor in rng.sample(cursors, len(cursors)):
            pool = list(walk.payers) if walk.payers and rng.random() < 0.5 else list(walk.left)
            shown = rng.sample(pool, min(pages.pop() if pages else 0, len(pool)))
            walk.take(cursor, page_of(*shown, last_id=f"end of {len(asked)}"))
            asked.append(cursor)
            assert walk.lost <= min(PATIENCE, len(walk.payers))
    assert len(asked) == len(set(asked))
    assert len(asked) == count - len(walk.left) + walk.lost


def test_a_walk_that_saves_asks_for_several_pages_at_once() -> None:
    """Ten thousand waits take a hundred pages: first one page, later up to ten at a time."""
    wanted = ours(10_000)
    walk = Walk(wanted, wanted)
    steps = []
    while cursors := walk.cursors():
        steps.append(len(cursors))
        for cursor in cursors:
            start = wanted.index(cursor) + 1 if cursor else 0
            walk.take(cursor, page_of(*wanted[start : start + PAGE], has_more=start + PAGE < len(wanted)))
    assert (steps[0], max(steps)) == (1, LANES)
    assert sum(steps) == 100
    assert len(steps) <= 12


def test_no_more_pages_are_asked_for_than_the_rest_could_make_up_for() -> None:
    """Two waits can be put off and one request was saved, so three pages; if they show nothing, no more."""
    walk = Walk(ours(5_000), ["batch_3000", "batch_3001"])
    assert walk.cursors() == [None]
    walk.take(None, page_of("batch_0", "batch_1", last_id="end"))
    cursors = walk.cursors()
    assert len(cursors) == 3
    for cursor in cursors:
        walk.take(cursor, page_of())
    assert walk.lost == 2
    assert walk.cursors() == []


def walk_of(*batch_ids: str) -> Walk:
    """A walk that has asked for its first page."""
    walk = Walk([*batch_ids, *ours(20)], payers=["batch_19"])
    assert walk.cursors() == [None]
    return walk


def test_a_batch_that_is_shown_twice_counts_once() -> None:
    """A list that changes between two pages repeats what it pushed down."""
    walk = walk_of("a", "b")
    walk.take(None, page_of("a", "a", "b", last_id="b"))
    assert walk.lost == -1


def test_a_cursor_that_comes_again_is_not_followed() -> None:
    """Otherwise a broken server would be asked for ever."""
    walk = walk_of("a", "b", "c", "d", "e")
    walk.take(None, page_of("a", "b", last_id="b"))
    assert walk.cursors() == ["b"]
    walk.take("b", page_of("c", "d", last_id="b"))
    assert walk.cursors() == ["e"]


@pytest.mark.parametrize(
    "page",
    [
        page_of(last_id="z"),
        page_of("a", "b", has_more=False),
        page_of(),
        BatchPage([batch("a", "unknown"), batch("b", "unknown")], has_more=True, last_id="b"),
    ],
    ids=["empty", "no has_more", "nothing at all", "no statuses"],
)
def test_a_page_that_leads_nowhere_is_not_followed(page: BatchPage) -> None:
    """Only a batch that is still awaited may be a cursor then."""
    walk = walk_of("a", "b")
    walk.take(None, page)
    assert set(walk.cursors()) <= set(walk.left)


def test_a_missing_last_id_is_the_last_of_the_page() -> None:
    """Some servers leave it out."""
    walk = walk_of("a", "b")
    walk.take(None, page_of("a", "b"))
    assert walk.cursors() == ["b"]
