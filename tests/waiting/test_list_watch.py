"""What a look at the list asks for, when not all of it comes."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_openai_batches.api.models import Batch, BatchPage
from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.polling.ends import Ends, Filter
from airflow_provider_openai_batches.polling.list_watch import ListWatch, Watcher

NOW = int(time.time())
SICK = "sick"


class Account:
    """A list of batches, newest first; one that has no status there, and cannot be retrieved."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.pages = 0

    def add(self, count: int, name: str) -> None:
        new = [Batch(f"{name}-{n}", "failed", created_at=NOW, failed_at=NOW) for n in range(count)]
        self.batches = new + self.batches

    async def list_batches(self, after: str | None) -> BatchPage:
        self.pages += 1
        ids = [batch.id for batch in self.batches]
        start = 0 if after is None else ids.index(after) + 1
        return BatchPage(self.batches[start : start + 100], has_more=start + 100 < len(ids))

    async def retrieve_batch(self, batch_id: str) -> Batch:
        raise APIError("The service cannot read its own record", status=500)


def test_a_batch_that_never_comes_makes_no_look_longer() -> None:
    """Without it a look is not complete; but the list above the others is known as far as it was shown."""
    account, watch = Account(), ListWatch("conn")
    watcher = Watcher("conn", Ends(Filter()), 60)
    watch._client = account  # type: ignore[assignment]
    watch._watchers[watcher] = None
    account.batches = [Batch(SICK, "in_progress", created_at=NOW)]
    asyncio.run(watch._look([watcher]))
    watcher.tell(is_complete=True)
    account.batches = [Batch(SICK, created_at=NOW)]
    for number in range(5):
        account.add(120, f"look{number}")
        account.pages = 0
        with pytest.raises(OpenAIBatchesError):
            asyncio.run(watch._look([watcher]))
        assert account.pages == 2, "the new ones, as far as those that are known"
        assert len(watcher.ends.take()[0]) == 120


def test_after_an_empty_answer_the_list_is_not_read_to_its_end() -> None:
    """What was known before is known still."""
    account, watch = Account(), ListWatch("conn")
    watcher = Watcher("conn", Ends(Filter()), 60)
    watch._client = account  # type: ignore[assignment]
    watch._watchers[watcher] = None
    account.add(1_000, "old")
    full = account.batches
    for batches in (full, [], full):
        account.batches, account.pages = batches, 0
        asyncio.run(watch._look([watcher]))
        watcher.tell(is_complete=True)
    assert account.pages == 1
    assert watcher.ends.take()[0] == []


def test_a_batch_without_a_time_does_not_end_the_first_look() -> None:
    """The last one of a page: the batches below it were never seen, and their ends not told."""
    account, watch = Account(), ListWatch("conn")
    watcher = Watcher("conn", Ends(Filter({"team": "x"})), 60)
    watch._client = account  # type: ignore[assignment]
    watch._watchers[watcher] = None
    account.batches = [Batch(f"b{n}", "in_progress", created_at=NOW - n) for n in range(99)]
    account.batches += [
        Batch("odd"),
        Batch("ours", "in_progress", created_at=NOW - 100, metadata={"team": "x"}),
    ]
    asyncio.run(watch._look([watcher]))
    assert set(watch._awaited) == {"ours"}
