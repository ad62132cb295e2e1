"""Nothing is left behind by waits that have ended."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

from waiting_room import (
    CONN,
    Waiting,
    complete,
    run,
    seed,
    seen,
    stop,
    waiting,
)

from airflow_provider_openai_batches.polling import poller, wait

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer


def test_the_last_waiter_closes_the_client_and_a_new_one_opens_it(server: DevServer) -> None:
    """One client for all, none when nobody waits."""
    ids = seed(server, 4)

    async def waits() -> None:
        clients = set()
        for _ in range(3):
            several = waiting(ids, poll_interval=30)
            await seen(several)
            (shared,) = poller._pollers.values()
            client = await shared._client.open()
            clients.add(client)
            for one in several[:-1]:
                one.task.cancel()
            await asyncio.sleep(0.05)
            assert not client._http.is_closed
            several[-1].task.cancel()
            await several[-1].ended()
            assert client._http.is_closed
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
    """The next wait removes the poller that a closed loop left behind."""
    ids = seed(server, 2)
    loop = asyncio.new_event_loop()
    entered = poller.Waiter(CONN, wait.Wait(ids[:1], poll_interval=30, now=time.time()))
    loop.run_until_complete(entered.__aenter__())
    (left,) = poller._pollers.values()
    assert left._task
    left._task.cancel()
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
    loop.close()
    run(lambda: waiting_for_one(server, ids[1]))
    assert not poller._pollers


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def own_memory() -> int:
    """The bytes of memory that this package holds, without the dev server's."""
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
        stop(several)
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
