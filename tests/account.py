"""An account's list of batches, and the waits for some of them, without a network."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING

from waiting_room import batch

from airflow_provider_openai_batches.api.models import Batch, BatchPage
from airflow_provider_openai_batches.polling.list_plan import PAGE, PATIENCE
from airflow_provider_openai_batches.polling.lister import Lister
from airflow_provider_openai_batches.polling.poller import PolledBatch

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER = float("inf")
PATIENT = SimpleNamespace(wait=SimpleNamespace(next_in=lambda *_: 60.0, deadline=NEVER))


class Account:
    """
    A service's batches, the newest first, and how often it was asked for them.

    :param clock: when the batch with a number was created; the oldest batch has the number 1.
    """

    def __init__(self, ids: list[str], clock: Callable[[int], int] = int) -> None:
        self.ids = list(ids)
        self.clock = clock
        self._batches: dict[str, Batch] = {}
        self.hidden: set[str] = set()
        self.asked = self.pages = 0
        self.fault: Exception | None = None

    def page(self, after: str | None) -> BatchPage:
        start = 0 if after is None else self.ids.index(after) + 1
        numbered = enumerate(islice(self.ids, start, None), start)
        listed = (
            self.created(index, batch_id) for index, batch_id in numbered if batch_id not in self.hidden
        )
        shown = list(islice(listed, PAGE))
        return BatchPage(shown, next(listed, None) is not None, last_id=shown[-1].id if shown else None)

    def batch(self, batch_id: str) -> Batch:
        return self.created(self.ids.index(batch_id), batch_id)

    def created(self, index: int, batch_id: str) -> Batch:
        """The batch with its time of creation, which stays the same when newer batches come."""
        if batch_id not in self._batches:
            self._batches[batch_id] = batch(batch_id, created_at=self.clock(len(self.ids) - index))
        return self._batches[batch_id]

    async def list_batches(self, after: str | None) -> BatchPage:
        self.asked += 1
        self.pages += 1
        await asyncio.sleep(0)  # so that several pages are requested at the same time
        if self.fault:
            raise self.fault
        return self.page(after)


class Room:
    """The waits of one connection, interval by interval."""

    def __init__(self, account: Account, wanted: list[str]) -> None:
        self.account = account
        self.polled: dict[str, PolledBatch] = {}
        self.seen: set[str] = set()
        self.lister = Lister(account, self.polled, self.deliver)  # type: ignore[arg-type]
        self.arrive(wanted)

    def arrive(self, wanted: list[str]) -> None:
        for batch_id in wanted:
            polled = self.polled[batch_id] = PolledBatch(batch_id)
            polled.waiters.append(PATIENT)  # type: ignore[arg-type]

    def leave(self, batch_id: str) -> None:
        del self.polled[batch_id]
        self.lister.forget(batch_id)

    def deliver(self, shown: Batch) -> None:
        if polled := self.polled.get(shown.id):
            self.seen.add(shown.id)
            polled.interval, polled.due = 60.0, NEVER
            self.lister.saw(shown)

    async def retrieve(self, batch_id: str) -> None:
        self.account.asked += 1
        self.deliver(self.account.batch(batch_id))

    def round(self) -> int:
        """Poll every wait, except new ones that may be put off; return how many requests that took."""
        self.account.asked = 0
        self.seen.clear()
        new = {batch_id for batch_id, polled in self.polled.items() if polled.interval is None}
        for polled in self.polled.values():
            polled.due = 0.0

        asyncio.run(self.look())
        unseen = set(self.polled) - self.seen
        assert unseen <= new
        assert len(unseen) <= PATIENCE
        return self.account.asked

    async def look(self) -> None:
        """Poll what is due as a poller does: with list pages first, and with retrieves for the rest."""
        await self.lister.ask(time.monotonic())
        for polled in list(self.polled.values()):
            if polled.due == 0.0:
                await self.retrieve(polled.batch_id)


def others(count: int, name: str = "other") -> list[str]:
    return [f"{name}_{number}" for number in range(count)]


def ours(count: int) -> list[str]:
    return [f"batch_{number}" for number in range(count)]
