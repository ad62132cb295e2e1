"""The shared poller over real sockets: what it asks, and how, and whom it tells."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting_room import CONN, TASK, Waiting, connection, ids_of, requests, run, seed, until

from airflow_provider_openai_batches.compat import supervisor
from airflow_provider_openai_batches.devserver import DevServer
from airflow_provider_openai_batches.polling import client, list_plan, poller, wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.config import ClientConfig


def complete(server: DevServer, batch_ids: Iterable[str]) -> None:
    for batch_id in batch_ids:
        server.force(batch_id, status="completed")


def waiting(batch_ids: Iterable[str], **kwargs: Any) -> list[Waiting]:
    return [Waiting([batch_id], **kwargs).start() for batch_id in batch_ids]


async def seen(waits: Iterable[Waiting], within: float = 10.0) -> None:
    """Until each was polled once."""
    await until(lambda: all(one.lines for one in waits), within)


# -- which requests ------------------------------------------------------------------------------------------


def test_few_waits_are_retrieved_each(server: DevServer) -> None:
    """Three waits, three requests."""
    ids = seed(server, 3)

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert requests(server) == {"list_batches": 0, "retrieve_batch": 3}
        for one in several:
            one.task.cancel()

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
    """Be they older or newer than what is waited for."""
    seed(server, 3_000, spread_seconds=3_000)
    ids = seed(server, 300, newer=newer)

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert sum(requests(server).values()) <= 6
        for one in several:
            one.task.cancel()

    run(waits)


def test_thinly_strewn_waits_take_no_request_more_than_a_retrieve_of_each(server: DevServer) -> None:
    """Pages that show one in a hundred are given up at once, and waits that can wait make up for them."""
    server.seed(5_000, spread_seconds=5_000)
    ids = ids_of(server)[50::100]
    for batch_id in ids:
        server.force(batch_id, status="in_progress")

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert sum(requests(server).values()) <= 50
        for one in several:
            one.task.cancel()

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
        for one in several:
            one.task.cancel()

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
        for one in several:
            one.task.cancel()

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
        for one in several:
            one.task.cancel()

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


@pytest.mark.parametrize(
    "rule",
    [{"action": "status", "status": 503}, {"action": "drop_during"}, {"action": "invalid_json"}],
    ids=str,
)
@pytest.mark.parametrize("times", [1, 4])
def test_a_fault_in_the_middle_of_the_pages(server: DevServer, rule: dict[str, Any], times: int) -> None:
    """A page is asked for once more; if that fails too, what it would have shown is retrieved."""
    ids = seed(server, 400)
    server.faults([{"operation": "list_batches", "skip": 2, "times": times, **rule}])

    async def waits() -> None:
        several = waiting(ids, poll_interval=30)
        await seen(several, 15)
        assert requests(server)["retrieve_batch"] <= (0 if times == 1 else 3)
        assert not [line for one in several for line in one.lines if "again" in line]
        for one in several:
            one.task.cancel()

    run(waits)


# -- schedule ------------------------------------------------------------------------------------------------


def test_each_wait_keeps_its_own_interval(server: DevServer) -> None:
    """The impatient one is asked for often, the patient one is not."""
    quick, slow = seed(server, 2)

    async def waits() -> None:
        several = [Waiting([quick], poll_interval=0.2).start(), Waiting([slow], poll_interval=30).start()]
        await asyncio.sleep(2.3)
        count = requests(server)["retrieve_batch"]
        assert 9 <= count <= 14
        complete(server, [quick, slow])
        await several[0].end(1)
        assert several[1].payload is None
        several[1].task.cancel()

    run(waits)


def test_a_batch_with_two_waits_is_asked_for_by_the_more_impatient(server: DevServer) -> None:
    """Once for both, and both end."""
    (batch_id,) = seed(server, 1)

    async def waits() -> None:
        several = [Waiting([batch_id], poll_interval=seconds).start() for seconds in (0.3, 30)]
        await seen(several)
        assert requests(server)["retrieve_batch"] == 1
        complete(server, [batch_id])
        for one in several:
            await one.end(1)

    run(waits)


def test_an_end_is_told_within_the_interval_and_a_second(server: DevServer) -> None:
    """For lists and retrieves alike, wherever in the interval it falls."""
    ids = seed(server, 120)

    async def waits() -> None:
        several = waiting(ids[:110], poll_interval=1) + waiting(ids[110:], poll_interval=0.5)
        await seen(several)
        ended = {}
        for number in range(0, 120, 3):
            server.force(ids[number], status="completed")
            ended[number] = time.monotonic()
            await asyncio.sleep(0.03)
        for number, at in ended.items():
            await several[number].end()
            assert several[number].ended_at - at < several[number].trigger.poll_interval + 1
        for one in several:
            one.task.cancel()

    run(waits)


def test_waits_that_began_together_do_not_stay_together(server: DevServer) -> None:
    """After a restart of the triggerer the second round is spread over a quarter of the interval."""
    ids = seed(server, 6)

    async def waits() -> list[float]:
        several = waiting(ids, poll_interval=40)
        await seen(several)
        (shared,) = poller._pollers.values()
        dues = sorted(batch.due - time.monotonic() for batch in shared._polled.values())
        for one in several:
            one.task.cancel()
        return dues

    dues = run(waits)
    assert 29 < dues[0] < dues[-1] < 40.1
    assert dues[-1] - dues[0] > 0.5


def test_a_429_slows_all_down(server: DevServer) -> None:
    """Nothing is asked during the time that the service wants, and nobody is told of a failure."""
    ids = seed(server, 5)
    server.faults(
        [{"operation": "retrieve_batch", "action": "status", "status": 429, "headers": {"Retry-After": "2"}}]
    )

    async def waits() -> None:
        begun = time.monotonic()
        several = waiting(ids, poll_interval=30)
        await until(lambda: requests(server)["retrieve_batch"])
        await asyncio.sleep(0.5)
        count = requests(server)["retrieve_batch"]
        assert count <= 5
        await asyncio.sleep(0.8)
        assert requests(server)["retrieve_batch"] == count
        await seen(several)
        assert time.monotonic() - begun > 2
        assert all(len(one.lines) == 1 for one in several)
        for one in several:
            one.task.cancel()

    run(waits)


def test_429s_do_not_end_a_wait(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those that say that there is no money."""
    monkeypatch.setattr("airflow_provider_openai_batches.polling.client.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("airflow_provider_openai_batches.polling.client.LONGEST_PAUSE", 0.02)
    ids = seed(server, 20)
    rule = {"action": "status", "status": 429, "code": "insufficient_quota", "times": 30}
    server.faults([{"operation": "*", **rule}])

    async def waits() -> None:
        several = waiting(ids)
        await asyncio.sleep(0.3)
        complete(server, ids)
        assert {(await one.end(20))["status"] for one in several} == {"finished"}

    run(waits)


def test_few_requests_are_in_flight_and_not_too_many_a_second(server: DevServer) -> None:
    """However many wait on a server without a list."""
    ids = seed(server, 60)
    server.settings(list_enabled=False, latency=0.1)

    async def waits() -> None:
        begun = time.monotonic()
        several = waiting(ids, poll_interval=60)
        await seen(several, 20)
        assert server.stats()["peak_in_flight"] <= client.IN_FLIGHT
        assert time.monotonic() - begun > 60 / 50
        for one in several:
            one.task.cancel()

    run(waits)


# -- isolation -----------------------------------------------------------------------------------------------


def test_a_wait_that_is_cancelled_touches_no_other(server: DevServer) -> None:
    """Even of the same batch, and in the middle of a round."""
    ids = seed(server, 30)
    server.settings(latency=0.1)

    async def waits() -> None:
        several = waiting(ids) + waiting(ids)
        await asyncio.sleep(0.12)
        for one in several[:45]:
            one.task.cancel()
        await seen(several[45:])
        complete(server, ids)
        assert {(await one.end())["status"] for one in several[45:]} == {"finished"}
        assert not any(one.payload for one in several[:45])

    run(waits)


def test_a_wait_that_breaks_touches_no_other(server: DevServer) -> None:
    """What is wrong with one state is raised in its own trigger alone."""
    ids = seed(server, 3)

    async def waits() -> None:
        several = waiting(ids)
        await seen(several)
        several[1].trigger._wait.seen = None
        complete(server, ids)
        with pytest.raises((TypeError, AttributeError)):
            await several[1].end()
        for one in (several[0], several[2]):
            assert (await one.end())["status"] == "finished"

    run(waits)


def test_a_bad_connection_slows_no_other(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead host, a wrong key and a connection that is not there."""
    with DevServer(freeze=True) as dead:
        port = int(dead.base_url.split(":")[2].split("/")[0])
    monkeypatch.setenv("AIRFLOW_CONN_DEAD", connection(port=port))
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", connection(server, key="wrong"))
    server.settings(api_keys=["devserver-key"])
    ids = seed(server, 40)

    async def waits() -> None:
        bad = [
            one
            for conn_id in ("dead", "wrong", "absent")
            for one in waiting(ids, conn_id=conn_id, poll_interval=0.1)
        ]
        begun = time.monotonic()
        several = waiting(ids)
        await seen(several)
        assert time.monotonic() - begun < 1.5
        complete(server, ids)
        assert {(await one.end(3))["status"] for one in several} == {"finished"}
        payloads = [await one.end() for one in bad[40:]]
        assert {payload["status"] for payload in payloads} == {"error"}
        assert "401" in payloads[0]["message"]
        assert "'absent'" in payloads[-1]["message"]
        assert not any(one.payload for one in bad[:40])
        for one in bad:
            one.task.cancel()

    run(waits)


def test_a_wrong_key_is_tried_by_few_requests(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by one for each of 200 waits, round after round; some are under way as the first is refused."""
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", connection(server, key="wrong"))
    server.settings(api_keys=["devserver-key"])
    ids = seed(server, 200)

    async def waits() -> None:
        payloads = [await one.end() for one in waiting(ids, conn_id="wrong", poll_interval=0.1)]
        assert {payload["status"] for payload in payloads} == {"error"}

    run(waits)
    assert sum(requests(server).values()) <= 10 * wait.REFUSALS


def test_lines_are_written_in_each_triggers_own_context(server: DevServer) -> None:
    """That decides whose task's log they go to; the poller's own context is nobody's."""
    ids = seed(server, 30)

    async def waits() -> None:
        several = waiting(ids)
        await seen(several)
        complete(server, ids)
        for one in several:
            await one.end()
            assert one.notebook.contexts == {one.name}

    run(waits)


def test_the_poller_works_in_a_context_of_its_own(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it and its libraries log would stand in the log of whichever task came first."""
    contexts = []

    async def aread_config(conn_id: str) -> ClientConfig:
        contexts.append(TASK.get())
        return await supervisor.aread_config(conn_id)

    monkeypatch.setattr(client, "aread_config", aread_config)
    ids = seed(server, 2)

    async def waits() -> None:
        several = waiting(ids)
        await seen(several)
        for one in several:
            one.task.cancel()

    run(waits)
    assert contexts == ["nobody's"]


# -- the connection ------------------------------------------------------------------------------------------


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
    """Another host, for example, which the old one's answers would not tell."""
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


def test_an_outage_is_survived(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused connections cost few requests and two lines, and then all goes on."""
    monkeypatch.setattr(wait, "ASK_SILENT_AFTER", 0.2)
    ids = seed(server, 100)

    async def waits() -> None:
        several = waiting(ids, poll_interval=0.3)
        await seen(several)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1.5)
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
        for one in several:
            one.task.cancel()

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
    server.faults([{"operation": "*", "action": "delay", "seconds": 5, "times": None}])

    async def waits() -> None:
        end_time = time.time() + 0.7
        payloads = [await one.end(1.5) for one in waiting(ids, end_time=end_time)]
        assert {payload["status"] for payload in payloads} == {"timeout"}
        assert abs(time.time() - end_time) < 0.5

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


# -- nothing leaks -------------------------------------------------------------------------------------------


def test_the_last_waiter_closes_the_client_and_a_new_one_opens_it(server: DevServer) -> None:
    """One client for all, none when nobody waits."""
    ids = seed(server, 4)

    async def waits() -> None:
        clients = set()
        for _ in range(3):
            several = waiting(ids, poll_interval=30)
            await seen(several)
            (shared,) = poller._pollers.values()
            client = shared._client._client
            clients.add(client)
            for one in several[:-1]:
                one.task.cancel()
            await asyncio.sleep(0.05)
            assert not client._http.is_closed
            several[-1].task.cancel()
            await until(lambda client=client: client._http.is_closed)
            assert not poller._pollers
        assert len(clients) == 3

    run(waits)


def test_one_event_loop_after_the_other(server: DevServer) -> None:
    """As inline triggers of dag.test() have it, even if the loop before was left in disorder."""
    ids = seed(server, 3)

    async def abandoned() -> None:
        waiting(ids)
        await asyncio.sleep(0.3)

    for _ in range(2):
        run(lambda: waiting_for_one(server, ids[0]))
        asyncio.run(abandoned())
        server.force(ids[0], status="in_progress")
    assert not poller._pollers


async def waiting_for_one(server: DevServer, batch_id: str) -> None:
    one = Waiting([batch_id]).start()
    await seen([one])
    complete(server, [batch_id])
    await one.end()


def test_a_loop_that_was_closed_without_a_farewell_leaves_no_poller(server: DevServer) -> None:
    """The next wait clears away what a dead loop left."""
    ids = seed(server, 2)
    loop = asyncio.new_event_loop()
    entered = poller.Waiter(CONN, wait.Wait(ids[:1], poll_interval=30, now=time.time()))
    loop.run_until_complete(entered.__aenter__())
    (left,) = poller._pollers.values()
    left._task.cancel()
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
    loop.close()
    run(lambda: waiting_for_one(server, ids[1]))
    assert not poller._pollers


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def own_memory() -> int:
    """Bytes that this package's code, but for the server, holds."""
    gc.collect()
    own = [
        tracemalloc.Filter(True, "*/airflow_provider_openai_batches/*"),
        tracemalloc.Filter(False, "*/devserver/*"),
    ]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(own).traces)


def test_ten_thousand_arrivals_and_departures_leave_nothing(server: DevServer) -> None:
    """No task, no socket, no memory; some leave by an event, some are cancelled."""
    ids = seed(server, 100)

    async def generation(stays: Waiting) -> None:
        several = waiting(ids * 10, poll_interval=30)
        await seen(several)
        for one in several:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in several), return_exceptions=True)
        assert stays.payload is None

    async def waits() -> None:
        tracemalloc.start()
        stays = Waiting(ids[:1], poll_interval=30).start()
        await generation(stays)
        tasks, files, memory = len(asyncio.all_tasks()), open_files(), own_memory()
        for _ in range(9):
            await generation(stays)
        grown = own_memory() - memory
        tracemalloc.stop()
        assert len(asyncio.all_tasks()) == tasks
        assert open_files() <= files + 1
        assert grown < 50_000
        stays.task.cancel()

    run(waits)
