"""Which requests many waits take, over real sockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from waiting_room import (
    complete,
    ids_of,
    requests,
    run,
    seed,
    seen,
    stop,
    until,
    waiting,
)

from airflow_provider_openai_batches.polling import lister

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer


def test_few_waits_are_retrieved_each(server: DevServer) -> None:
    """Three waits, three requests."""
    ids = seed(server, 3)

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert requests(server) == {"list_batches": 0, "retrieve_batch": 3}
        stop(several)

    run(waits)


def test_many_waits_are_listed(server: DevServer) -> None:
    """A thousand waits take ten pages, round for round, and each ends."""
    ids = seed(server, 1_000)

    async def waits() -> None:
        several = waiting(ids, poll_interval=2)
        await seen(several)
        assert requests(server) == {"list_batches": 10, "retrieve_batch": 0}
        complete(server, ids)
        payloads = await asyncio.gather(*(one.end() for one in several))
        # Two rounds; on a machine that is busy a third one comes between.
        assert sum(requests(server).values()) <= 35
        assert {tuple(payload["batches"].items()) for payload in payloads} == {
            ((id_, "completed"),) for id_ in ids
        }

    run(waits)


@pytest.mark.parametrize("newer", [0, 3_000])
def test_others_in_the_account_cost_little(server: DevServer, newer: int) -> None:
    """Whether they are older or newer than the awaited batches."""
    seed(server, 3_000, spread_seconds=3_000)
    ids = seed(server, 300, newer=newer)

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert sum(requests(server).values()) <= 6
        stop(several)

    run(waits)


def test_thinly_strewn_waits_take_no_request_more_than_a_retrieve_of_each(server: DevServer) -> None:
    """Pages that show one wait each are given up at once; putting off a few first looks pays for them."""
    server.seed(5_000, spread_seconds=5_000)
    ids = ids_of(server)[50::100][::-1]
    for batch_id in ids:
        server.force(batch_id, status="in_progress")

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert sum(requests(server).values()) <= 50
        stop(several)

    run(waits)


def test_a_list_that_lags_is_made_up_for(server: DevServer) -> None:
    """New batches are retrieved as long as the list does not show them."""
    old = seed(server, 99, spread_seconds=3_600)
    server.settings(list_lag_seconds=30)
    new = seed(server, 5)

    async def waits() -> None:
        several = waiting([*old, *new], poll_interval=30)
        await seen(several)
        assert requests(server) == {"list_batches": 1, "retrieve_batch": 6}
        stop(several)

    run(waits)


def test_a_list_that_repeats_and_skips_is_made_up_for(server: DevServer) -> None:
    """As it does when batches are created between two pages."""
    ids = seed(server, 40)[::-1]
    pages = [ids[:20], ids[10:30]]
    for number, page in enumerate(pages):
        data = [{"id": batch_id, "status": "in_progress"} for batch_id in page]
        body = {"object": "list", "data": data, "last_id": page[-1], "has_more": number == 0}
        server.faults([{"operation": "list_batches", "action": "status", "status": 200, "body": body}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert requests(server)["retrieve_batch"] <= 11
        stop(several)

    run(waits)


def test_a_list_that_ends_early_is_walked_once_a_round(server: DevServer) -> None:
    """What it never shows is retrieved, in as many steps as it takes."""
    ids = seed(server, 90)[::-1]
    data = [{"id": batch_id, "status": "in_progress"} for batch_id in ids[:20]]
    rule = {"operation": "list_batches", "action": "status", "status": 200, "times": None}
    server.faults([{**rule, "body": {"object": "list", "data": data}}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert requests(server)["retrieve_batch"] == 70
        assert requests(server)["list_batches"] <= 3
        stop(several)

    run(waits)


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "status", "status": 404},
        {"action": "status", "status": 403},
        {"action": "status", "status": 500},
        {"action": "status", "status": 200, "body": {"data": [], "has_more": False}},
        {"action": "status", "status": 200, "body": []},
        {"action": "drop_before"},
        {"action": "half_body"},
    ],
    ids=str,
)
def test_a_server_without_a_usable_list_is_asked_by_retrieve(server: DevServer, rule: dict[str, Any]) -> None:
    """And the list is left alone for many rounds."""
    ids = seed(server, 12)
    server.faults([{"operation": "list_batches", "times": None, **rule}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=0.3)
        await seen(several)
        # One wait may have put off its first look, for the page that showed nothing.
        assert requests(server)["retrieve_batch"] < 24
        assert requests(server)["list_batches"] <= 4
        complete(server, ids)
        assert {(await one.end())["status"] for one in several} == {"finished"}
        assert requests(server)["list_batches"] <= 4
        assert not [line for one in several for line in one.lines if "again" in line]

    run(waits)


FAULTS = [{"action": "status", "status": 503}, {"action": "drop_during"}, {"action": "invalid_json"}]


@pytest.mark.parametrize("rule", FAULTS, ids=str)
def test_a_page_that_fails_is_asked_for_once_more(server: DevServer, rule: dict[str, Any]) -> None:
    """Nothing is retrieved because of it, and no task hears of it."""
    ids = seed(server, 400)
    server.faults([{"operation": "list_batches", "skip": 2, "times": 1, **rule}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert requests(server) == {"list_batches": 5, "retrieve_batch": 0}
        assert not [line for one in several for line in one.lines if "again" in line]
        stop(several)

    run(waits)


@pytest.mark.parametrize("rule", FAULTS, ids=str)
def test_a_walk_that_was_interrupted_is_taken_up_later(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any]
) -> None:
    """Until then, the batches that a page would have shown are retrieved; afterwards they are listed."""
    monkeypatch.setattr(lister, "WALK_AGAIN_AFTER", 0.1)
    ids = seed(server, 150)
    server.faults([{"operation": "list_batches", "skip": 1, "times": 2, **rule}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=1)
        await seen(several)
        first = requests(server)  # on a busy machine the next round may have begun
        assert first["retrieve_batch"] == 50
        assert 3 <= first["list_batches"] <= 5
        await until(lambda: requests(server)["list_batches"] >= 7)
        assert requests(server)["retrieve_batch"] <= 51
        assert not [line for one in several for line in one.lines if "again" in line]
        stop(several)

    run(waits)
