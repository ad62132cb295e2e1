"""Which batches a watch tells, however it is shown them: each that ends after its beginning, once."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting_room import batch

from airflow_provider_openai_batches.idempotency.keys import KEY
from airflow_provider_openai_batches.polling.ends import (
    FILES_WITHIN,
    LATE,
    Ends,
    Filter,
    Position,
    payload_of,
)

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch

NOW = 1_000_000
ALL = Filter()


def ended(batch_id: str, at: int = NOW, status: str = "completed", **fields: Any) -> Batch:
    file = {"output_file_id": "file-1", **fields}
    return batch(batch_id, status, **{f"{status}_at": at, "created_at": at - 100, **file})


def told(ends: Ends) -> list[str]:
    return [one.id for one in ends.take()[0]]


def watching(*before: Batch, wanted: Filter = ALL) -> Ends:
    """A watch whose first look is over, and showed these."""
    ends = Ends(wanted)
    for one in before:
        ends.saw(one, NOW)
    ends.looked(NOW)
    assert told(ends) == []
    return ends


def stored(ends: Ends) -> Position:
    """The position of a watch, as it is after a restart."""
    position = ends.take()[1]
    assert position
    return msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(position))), Position)


def test_what_had_ended_before_is_not_told() -> None:
    ends = watching(ended("old"))
    ends.saw(ended("old"), NOW)
    assert told(ends) == []
    assert ends.saw(batch("new", created_at=NOW), NOW)
    assert not ends.saw(ended("new", NOW + 50), NOW + 60)
    ends.saw(ended("old"), NOW)
    ends.saw(ended("new", NOW + 50), NOW + 61)
    assert told(ends) == ["new"]


def test_a_batch_that_begins_and_ends_between_two_looks_is_told() -> None:
    ends = watching(ended("old"))
    ends.saw(ended("new", NOW + 5), NOW + 60)
    assert told(ends) == ["new"]


def test_a_batch_that_ends_while_the_first_look_goes_on_is_told() -> None:
    """The look had shown that it ran."""
    ends = Ends(ALL)
    ends.saw(batch("a", created_at=NOW), NOW)
    ends.saw(ended("a"), NOW)
    assert told(ends) == ["a"]


def test_a_list_that_shows_an_end_and_then_an_older_copy_is_told_once() -> None:
    """The copy must not count as a batch that runs: its end would be told again when it is long ago."""
    running = batch("a", created_at=NOW)
    ends = watching(running)
    ends.saw(ended("a", NOW + 50), NOW + 60)
    assert told(ends) == ["a"]
    assert not ends.saw(running, NOW + 61), "nobody waits for it any more"
    for later in (100, 3 * LATE, 3 * LATE + 60):
        ends.saw(ended("a", NOW + 50), NOW + later)
        ends.saw(ended(f"b{later}", NOW + later), NOW + later)
        ends.looked(NOW + later)
    assert told(ends) == [f"b{later}" for later in (100, 3 * LATE, 3 * LATE + 60)]


def test_in_an_empty_account_the_first_batch_is_told() -> None:
    ends = Ends(ALL, stored(watching()))
    ends.saw(ended("first"), NOW)
    assert told(ends) == ["first"]


def test_a_list_that_is_empty_by_mistake_makes_no_news_of_the_past() -> None:
    """A gateway answers ``{}`` once, or the connection led to another account: each old batch ran a DAG."""
    ends = watching()
    for hours in range(1, 500):
        ends.saw(ended(f"old{hours}", NOW - 3_600 * hours - LATE), NOW + 60)
    ends.saw(ended("new", NOW - 1_000), NOW + 60)  # the service's clock may be behind
    assert told(ends) == ["new"]


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (ALL, ["plain", "team x"]),
        (Filter(include_airflow=True), ["plain", "team x", "a task's"]),
        (Filter(metadata={"team": "x"}), ["team x"]),
        (Filter(metadata={"team": "x"}, statuses=frozenset({"failed"})), []),
    ],
)
def test_a_filter_says_which(wanted: Filter, takes: list[str]) -> None:
    """Batches of this provider's tasks are left out, unless they are asked for."""
    ends = watching(wanted=wanted)
    ends.saw(ended("plain"), NOW)
    ends.saw(ended("team x", metadata={"team": "x", "more": "y"}), NOW)
    ends.saw(ended("a task's", metadata={KEY: "key"}), NOW)
    assert told(ends) == takes


def test_a_batch_whose_files_are_not_named_yet_is_told_when_they_are() -> None:
    """Or two minutes later: some services name none."""
    ends = watching()
    for one in ("a", "b"):
        assert ends.saw(ended(one, output_file_id=None), NOW)
    assert not ends.saw(ended("a"), NOW + 10)
    assert told(ends) == ["a"]
    assert not ends.saw(ended("b", output_file_id=None), NOW + FILES_WITHIN)
    assert told(ends) == ["b"]


def test_times_of_the_future_move_nothing() -> None:
    """A service's odd time does not make the watch skip what comes."""
    ends = watching(ended("odd", NOW * 2))
    after = Ends(ALL, stored(ends))
    after.saw(ended("new", NOW + 5), NOW + 10)
    assert told(after) == ["new"]


def test_a_position_stays_small() -> None:
    ends = watching()
    for number in range(1_000):
        ends.saw(ended(f"b{number}", NOW + 60 * number), NOW + 60 * number)
        ends.looked(NOW + 60 * number)
    assert len(stored(ends).told) <= LATE / 60 + 1


def test_an_event_names_the_batch_and_no_key_of_ours() -> None:
    one = ended("a", counts=(3, 2, 1), metadata={KEY: "key", "airflow_dag_id": "d", "team": "x"})
    payload = payload_of(one, "conn")
    assert payload["metadata"] == {"team": "x"}
    assert payload["counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (payload["batch_id"], payload["status"], payload["openai_conn_id"]) == ("a", "completed", "conn")
    assert json.loads(json.dumps(payload)) == payload


class Account:
    """Batches that end at some time, and whose end the list shows up to ``LATE`` seconds later."""

    def __init__(self, ends: list[tuple[int, int]]) -> None:
        self.ends = [(NOW + at, NOW + at + lag) for at, lag in ends]

    def shown(self, now: int) -> list[Batch]:
        return [
            ended(f"b{n}", at) if now >= visible else batch(f"b{n}", created_at=NOW - 9)
            for n, (at, visible) in enumerate(self.ends)
            if now >= at - 100
        ]


@settings(derandomize=True, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, LATE - 1)), max_size=12),
    st.lists(st.tuples(st.integers(1, 4_000), st.sampled_from(["look", "part", "restart"])), max_size=15),
    st.integers(0, 99),
)
def test_each_end_is_told_once_whatever_is_shown_and_restarted(
    batches: list[tuple[int, int]], steps: list[tuple[int, str]], seed: int
) -> None:
    """A look may break off, and show what it likes; a restart forgets all but the stored position."""
    account, order, now, tells = Account(batches), random.Random(seed), NOW, []  # noqa: S311 - no secret
    ends, position = Ends(ALL), None
    for pause, step in [(0, "look"), *steps, (30_000, "restart"), (1, "look")]:
        now += pause
        if step == "restart":
            ends = Ends(ALL, position)
            continue
        shown = order.sample(account.shown(now), k=len(account.shown(now)))
        for one in shown if step == "look" else shown[::2]:
            ends.saw(one, now)
        if step == "look":
            ends.looked(now)
        news, position = ends.take()
        tells += [one.id for one in news]
    assert sorted(tells) == sorted(f"b{n}" for n in range(len(batches)))
