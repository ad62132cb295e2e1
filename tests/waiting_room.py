"""What the tests of waiting share: triggers that run as in a triggerer, with their lines and events kept."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api import models
from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from airflow_provider_openai_batches.devserver import DevServer
    from airflow_provider_openai_batches.polling.wait import Wait

CONN = "openai_batches_default"
# Stands in for the variable that a triggerer sets for each trigger, by which a line finds its task's log.
TASK = contextvars.ContextVar("TASK", default="nobody's")


class Notebook:
    """A trigger's logger. It keeps each line, and the context in which the line was written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.contexts: set[str] = set()

    def log(self, level: int, text: str) -> None:
        self.contexts.add(TASK.get())
        self.lines.append(text)

    def info(self, text: str, *args: Any) -> None:
        self.log(20, text % args)

    error = warning = info


class Waiting:
    """A running trigger."""

    def __init__(
        self, batch_ids: list[str], *, conn_id: str = CONN, poll_interval: float = 0.2, **kwargs: Any
    ) -> None:
        self.trigger = OpenAIBatchTrigger(conn_id, batch_ids, poll_interval=poll_interval, **kwargs)
        self.notebook = Notebook()
        self.trigger._log = self.notebook  # type: ignore[assignment]
        self.payload: dict[str, Any] | None = None
        self.ended_at = 0.0
        self.name = batch_ids[0] if batch_ids else "pause"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> Waiting:
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    @property
    def task(self) -> asyncio.Task[None]:
        assert self._task
        return self._task

    async def _run(self) -> None:
        TASK.set(self.name)
        async for event in self.trigger.run():
            assert self.payload is None, "a second event"
            self.payload, self.ended_at = event.payload, time.monotonic()

    async def end(self, within: float = 10.0) -> dict[str, Any]:
        await asyncio.wait_for(self.task, within)
        assert self.payload is not None
        return self.payload

    async def ended(self) -> None:
        """Wait until its task has ended, by an event or by its cancellation."""
        await asyncio.wait([self.task])

    @property
    def lines(self) -> list[str]:
        return self.notebook.lines

    @property
    def wait(self) -> Wait:
        assert self.trigger._wait
        return self.trigger._wait


def waiting(batch_ids: Iterable[str], **kwargs: Any) -> list[Waiting]:
    """One trigger for each batch."""
    return [Waiting([batch_id], **kwargs).start() for batch_id in batch_ids]


async def seen(waits: Iterable[Waiting], within: float = 10.0) -> None:
    """Wait until each was polled once."""
    await until(lambda: all(one.lines for one in waits), within)


def stop(waits: Iterable[Waiting]) -> None:
    for one in waits:
        one.task.cancel()


def complete(server: DevServer, batch_ids: Iterable[str]) -> None:
    for batch_id in batch_ids:
        server.force(batch_id, status="completed")


def notebook_of(trigger: OpenAIBatchTrigger) -> Notebook:
    """The trigger's logger from now on."""
    notebook = Notebook()
    trigger._log = notebook  # type: ignore[assignment]
    return notebook


def run(waits: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test's coroutine on a loop of its own, and check that it leaves nothing behind."""

    async def main() -> Any:
        result = await waits()
        for _ in range(100):
            if len(asyncio.all_tasks()) == 1:
                break
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(main())


def seed(server: DevServer, count: int, *, newer: int = 0, **options: Any) -> list[str]:
    """Add ``count`` running batches, in the order of creation; ``newer`` others come after them."""
    before = set(ids_of(server))
    server.seed(count, status="in_progress", **options)
    ours = [batch_id for batch_id in reversed(ids_of(server)) if batch_id not in before]
    if newer:
        server.seed(newer)
    return ours


def ids_of(server: DevServer) -> list[str]:
    """All batches of the account in the order of the list."""
    return [record.wire.id for record in server.service.batches._order[::-1] if record]


def requests(server: DevServer) -> dict[str, int]:
    counted = server.stats()["requests"]
    return {name: counted.get(name, 0) for name in ("list_batches", "retrieve_batch")}


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def connection(server: DevServer | None = None, *, key: str = "devserver-key", port: int = 0) -> str:
    """The value of an environment variable that holds a connection."""
    host = server.base_url if server else f"http://127.0.0.1:{port}/v1"
    return json.dumps({"conn_type": "openai_batches", "host": host, "password": key})


def batch(batch_id: str = "batch_1", status: str = "in_progress", **fields: Any) -> models.Batch:
    """A Batch object; ``counts`` is (total, completed, failed)."""
    total, completed, failed = fields.pop("counts", (0, 0, 0))
    counts = models.BatchRequestCounts(total, completed, failed)
    return models.Batch(batch_id, status, request_counts=counts, **fields)
