"""When the shared poller asks, and whom it tells, over real sockets."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from waiting_room import (
    TASK,
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

from airflow_provider_openai_batches.compat import supervisor
from airflow_provider_openai_batches.devserver import DevServer
from airflow_provider_openai_batches.polling import client, poller, wait

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.config import ClientConfig


def test_each_wait_keeps_its_own_interval(server: DevServer) -> None:
    """The impatient one is asked for often, the patient one is not."""
    quick, slow = seed(server, 2)

    async def waits() -> None:
        begun = time.monotonic()
        several = [Waiting([quick], poll_interval=0.1).start(), Waiting([slow], poll_interval=30).start()]
        await until(lambda: requests(server)["retrieve_batch"] >= 10)
        assert time.monotonic() - begun > 7 * 0.1
        assert len(several[1].lines) == 1
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
        stop(several)

    run(waits)


def test_waits_that_began_together_do_not_stay_together(server: DevServer) -> None:
    """After a restart of the triggerer the second round is spread over a quarter of the interval."""
    ids = seed(server, 6)

    async def waits() -> list[float]:
        several = waiting(ids, poll_interval=40)
        await seen(several)
        (shared,) = poller._pollers.values()
        dues = sorted(batch.due - time.monotonic() for batch in shared._polled.values())
        stop(several)
        return dues

    dues = run(waits)
    assert 29 < dues[0] < dues[-1] < 40.1
    assert dues[-1] - dues[0] > 0.5


def test_a_429_slows_all_down(server: DevServer) -> None:
    """Nothing is asked during the time that the service wants, and nobody is told of a failure."""
    ids = seed(server, 5)
    server.faults(
        [{"operation": "retrieve_batch", "action": "status", "status": 429, "headers": {"Retry-After": "1"}}]
    )

    async def waits() -> None:
        begun = time.monotonic()
        several = waiting(ids, poll_interval=30)
        await until(lambda: requests(server)["retrieve_batch"])
        await asyncio.sleep(0.2)
        count = requests(server)["retrieve_batch"]
        assert count <= 5
        await asyncio.sleep(0.4)
        assert requests(server)["retrieve_batch"] == count
        await seen(several)
        assert time.monotonic() - begun > 1
        assert all(len(one.lines) == 1 for one in several)
        stop(several)

    run(waits)


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "insufficient_quota"])
def test_429s_do_not_end_a_wait(server: DevServer, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Not even those that say that there is no money."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    ids = seed(server, 20)
    server.faults([{"operation": "*", "action": "status", "status": 429, "code": code, "times": 30}])

    async def waits() -> None:
        several = waiting(ids)
        await asyncio.sleep(0.3)
        complete(server, ids)
        assert {(await one.end(20))["status"] for one in several} == {"finished"}

    run(waits)


def test_a_429_because_of_no_money_slows_nobody_down(server: DevServer) -> None:
    """It is told at once, and the others go on."""
    ids = seed(server, 3)
    rule = {"action": "status", "status": 429, "code": "insufficient_quota", "times": None}
    server.faults([{"operation": "retrieve_batch", "path": ids[0], **rule}])

    async def waits() -> None:
        begun = time.monotonic()
        several = waiting(ids, poll_interval=30)
        await seen(several)
        assert time.monotonic() - begun < client.FIRST_PAUSE
        assert requests(server)["retrieve_batch"] == 3
        assert "insufficient_quota" in several[0].lines[0]
        stop(several)

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
        stop(several)

    run(waits)


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
        several[1].wait.seen = None  # type: ignore[assignment]
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
        stop(several)

    run(waits)
    assert contexts == ["nobody's"]


def test_whatever_reading_the_connection_raises_the_waits_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's releases differ in what they raise. If the poller died of it, its waits would hang."""

    async def aread_config(conn_id: str) -> ClientConfig:
        raise RuntimeError("the API server is away")

    monkeypatch.setattr(client, "aread_config", aread_config)

    async def waits() -> None:
        (one,) = waiting(["batch_1"])
        await until(lambda: one.lines)
        assert "the API server is away" in one.lines[0]
        stop([one])

    run(waits)
