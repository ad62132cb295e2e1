"""The client that all waits of a connection share: its pace, its key, and services that fail."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from waiting_room import (
    CONN,
    Waiting,
    complete,
    connection,
    requests,
    run,
    seed,
    seen,
    stop,
    until,
    waiting,
)

from airflow_provider_openai_batches.devserver import DevServer
from airflow_provider_openai_batches.polling import client, list_plan, poller, wait
from airflow_provider_openai_batches.polling.client import LONGEST_PAUSE, PER_SECOND, Pace


def test_requests_are_evenly_apart() -> None:
    """Fifty a second."""
    pace = Pace()
    turns = [pace.turn(100.0) for _ in range(51)]
    assert turns[0] == 0
    assert turns[50] == pytest.approx(50 / PER_SECOND)
    assert pace.turn(200.0) == 0


def test_a_429_stops_all_and_slows_down_and_good_answers_speed_up() -> None:
    """Retry-After is obeyed, and several 429s to requests that were under way together count as one."""
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
    """The pauses grow to a minute; a Retry-After is obeyed up to five minutes."""
    pace, now, pauses = Pace(), 0.0, []
    for _ in range(9):
        pace.slowed(now, now, None)
        pauses.append(pace.paused_until - now)
        now = pace.paused_until
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    pace.slowed(now, now, 86_400.0)
    assert pace.paused_until - now == 300


@pytest.mark.parametrize("count", [3, 50])
def test_a_key_that_is_rotated_while_waiting_is_picked_up(
    server: DevServer, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Within a poll, and the wait does not end although the old one was refused."""
    server.settings(api_keys=["old", "devserver-key"])
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", connection(server, key="old"))
    ids = seed(server, count)

    async def waits() -> None:
        several = waiting(ids)
        await seen(several)
        server.settings(api_keys=["devserver-key"])
        await asyncio.sleep(0.4)  # the service knows of the new key before Airflow does
        os.environ["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"] = connection(server)
        complete(server, ids)
        assert {(await one.end())["status"] for one in several} == {"finished"}

    run(waits)


def test_a_changed_connection_is_read_now_and_then(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example for another host, about which the answers of the old one say nothing."""
    monkeypatch.setattr(client, "READ_AGAIN_AFTER", 0.3)
    ids = seed(server, 2)

    async def waits() -> None:
        several = waiting(ids)
        await seen(several)
        with DevServer(freeze=True) as other:
            os.environ["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"] = connection(other)
            await until(lambda: requests(other)["retrieve_batch"])
            os.environ["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"] = connection(server)
            await asyncio.sleep(0.7)
        complete(server, ids)
        assert {(await one.end())["status"] for one in several} == {"finished"}

    run(waits)


def test_a_changed_connection_cuts_off_no_cancel(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that was replaced is closed with the next change."""
    (batch_id,) = seed(server, 1)
    server.faults([{"operation": "cancel_batch", "action": "delay", "seconds": 0.5}])

    async def changed(shared: client.SharedClient, key: str) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", connection(server, key=key))
        assert await shared.refresh()

    async def waits() -> None:
        async with client.borrow(CONN) as shared:
            first = await shared.open()
            cancel = asyncio.ensure_future(shared.cancel_batch(batch_id))
            await until(lambda: server.stats()["in_flight"])
            await changed(shared, "second")
            assert (await cancel).status == "cancelling"
            assert not first._http.is_closed
            await changed(shared, "third")
            assert first._http.is_closed

    run(waits)


def test_an_outage_is_survived(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused connections cost few requests and two lines, and then all goes on."""
    monkeypatch.setattr(wait, "ASK_SILENT_AFTER", 0.2)
    ids = seed(server, 100)

    async def waits() -> None:
        several = waiting(ids, poll_interval=0.3)
        await seen(several)
        await asyncio.to_thread(server.stop)
        await until(lambda: all(len(one.lines) == 2 for one in several))
        complete(server, ids)
        await asyncio.to_thread(server.start)
        for one in several:
            assert (await one.end())["status"] == "finished"
            words = [line.split()[0] for line in one.lines]
            assert words == [one.name, "GET", "The", "completed"]

    run(waits)


def test_a_service_that_only_fails_is_left_in_peace(server: DevServer) -> None:
    """A round of many waits breaks off after a handful of failures."""
    ids = seed(server, 300)
    server.faults([{"operation": "*", "action": "status", "status": 503, "times": None}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=60)
        await seen(several)
        assert sum(requests(server).values()) <= 2 + poller.MAX_STRIKES + client.IN_FLIGHT
        server.clear_faults()
        stop(several)

    run(waits)


def test_one_batch_that_always_fails_holds_up_no_other(server: DevServer) -> None:
    """Its failures are its own."""
    ids = seed(server, list_plan.LIST_FROM - 1)
    server.faults(
        [{"operation": "retrieve_batch", "action": "status", "status": 500, "times": None, "path": ids[0]}]
    )

    async def waits() -> None:
        several = waiting(ids)
        await seen(several)
        complete(server, ids)
        for one in several[1:]:
            assert (await one.end(2))["status"] == "finished"
            assert len(one.lines) == 2
        assert "500" in several[0].lines[0]
        several[0].task.cancel()

    run(waits)


def test_a_deadline_holds_while_the_service_hangs(server: DevServer) -> None:
    """The poller may be stuck in a request, the wait is not."""
    ids = seed(server, 2)
    server.faults([{"operation": "*", "action": "delay", "seconds": 8, "times": None}])

    async def waits() -> None:
        end_time = time.time() + 0.7
        payloads = [await one.end(4) for one in waiting(ids, end_time=end_time)]
        assert {payload["status"] for payload in payloads} == {"timeout"}
        assert time.time() >= end_time

    run(waits)


def test_a_last_look_is_taken_before_the_deadline(server: DevServer) -> None:
    """A batch that ended between the last poll and the deadline has ended in time."""
    (batch_id,) = seed(server, 1)

    async def waits() -> None:
        one = Waiting([batch_id], poll_interval=600, end_time=time.time() + 2).start()
        await seen([one])
        complete(server, [batch_id])
        assert (await one.end(3))["status"] == "finished"

    run(waits)


def test_the_batchs_own_window_ends_the_wait(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its deadline is known with its first answer."""
    monkeypatch.setattr(wait, "GRACE", 1.0)
    server.settings(window_seconds=1)
    (batch_id,) = seed(server, 1)

    async def waits() -> dict[str, Any]:
        return await Waiting([batch_id], poll_interval=30).start().end(5)

    payload = run(waits)
    assert payload["status"] == "timeout"
    assert f"{batch_id} in_progress" in payload["message"]
