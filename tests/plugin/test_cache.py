"""Many viewers cost the service one call."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from scene import create, made_by

from airflow_provider_openai_batches.plugin.cache import CallCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver import DevServer

CONN = {"conn_id": "openai_batches_default"}
SPAN = 0.4


class Calls:
    """A slow call that counts itself and fails on demand, with a clock of its own."""

    def __init__(self) -> None:
        self.count = 0
        self.now = 0.0
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.cache = CallCache(4.0, clock=lambda: self.now, size=3)

    async def call(self) -> int:
        self.count += 1
        await self.go.wait()
        if self.error:
            raise self.error
        return self.count

    async def get(self, key: str = "k") -> int:
        answer: int = await self.cache.get(key, self.call)
        return answer


def test_all_who_ask_at_once_wait_for_the_same_call() -> None:
    """Twenty questions at once are one call."""

    async def run() -> None:
        calls = Calls()
        waiting = asyncio.gather(*(calls.get() for _ in range(20)))
        await asyncio.sleep(0)
        calls.go.set()
        assert await waiting == [1] * 20

    asyncio.run(run())


def test_an_answer_is_kept_for_some_seconds() -> None:
    """The time counts from the answer on; another key is another call."""

    async def run() -> None:
        calls = Calls()
        calls.go.set()
        assert await calls.get() == 1
        calls.now = 3.9
        assert await calls.get() == 1
        calls.now = 4.0
        assert await calls.get() == 2
        assert await calls.get("other") == 3
        calls.cache.clear()
        assert await calls.get() == 4

    asyncio.run(run())


def test_a_failure_is_kept_too() -> None:
    """A dead service is not asked by each viewer in turn."""

    async def run() -> None:
        calls = Calls()
        calls.go.set()
        calls.error = OSError("dead")
        for _ in range(3):
            with pytest.raises(OSError, match="dead"):
                await calls.get()
        assert calls.count == 1

    asyncio.run(run())


def test_a_viewer_who_leaves_does_not_stop_the_call() -> None:
    """The others still get the answer."""

    async def run() -> None:
        calls = Calls()
        first, second = asyncio.ensure_future(calls.get()), asyncio.ensure_future(calls.get())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        calls.go.set()
        assert await second == 1

    asyncio.run(run())


def test_the_number_of_kept_answers_is_limited() -> None:
    """The oldest go first."""

    async def run() -> None:
        calls = Calls()
        calls.go.set()
        for key in ("a", "b", "c", "d"):
            await calls.get(key)
        assert await calls.get("d") == 4
        assert await calls.get("a") == 5

    asyncio.run(run())


def test_twenty_viewers(login: Callable[[str], httpx.Client], server: DevServer) -> None:
    """Twenty viewers who reload all the time cause one list in each span, not one each."""
    from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin

    client = login("viewer")
    clients = OpenAIBatchesPlugin.fastapi_apps[0]["app"]._app.state.clients
    clients._seconds = clients._configs._seconds = SPAN
    answers: list[int] = []

    def reload_page() -> None:
        with httpx.Client(
            base_url=client.base_url, trust_env=False, cookies=client.cookies, headers=client.headers
        ) as viewer:
            answers.extend(
                viewer.get("/openai-batches/api/batches", params=CONN).status_code for _ in range(6)
            )

    began = time.monotonic()
    threads = [threading.Thread(target=reload_page) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    spans = (time.monotonic() - began) / SPAN
    assert answers == [200] * 120
    assert server.stats()["requests"]["list_batches"] <= spans + 1


def test_a_cancel_is_seen_at_once(login: Callable[[str], httpx.Client], server: DevServer) -> None:
    """What was cached before it is not shown any more."""
    from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin

    server.settings(freeze=True)
    batch_id = create(server, metadata=made_by("mine", "run_1", "ask"))
    client = login("user")
    clients = OpenAIBatchesPlugin.fastapi_apps[0]["app"]._app.state.clients
    clients._seconds = clients._configs._seconds = 60

    def status() -> str:
        listed = client.get("/openai-batches/api/batches", params=CONN).json()["batches"]
        return str(listed[0]["status"])

    assert status() == "validating"
    client.post(f"/openai-batches/api/batches/{batch_id}/cancel", params=CONN, json={})
    assert status() == "cancelling"
