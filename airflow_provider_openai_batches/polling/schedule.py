"""A batch that is waited for, who waits for it, and when it is to be asked for."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.polling.wait import Wait

# The first interval is cut by up to this part, so that waits that began together do not stay together; and
# what is due within this part of its interval is taken along when a page may show it.
SPREAD = 0.25
# The last look is taken so long before the deadline.
LAST_LOOK = 1.0


class Listener(Protocol):
    """What the poller knows of a waiter."""

    wait: Wait

    def saw(self, batch: Batch) -> None: ...
    def failed(self, error: Exception, batch_id: str | None = None) -> None: ...
    def tick(self) -> None: ...


class Entry:
    """
    A batch that is waited for; ``due`` is on the monotonic clock, ``interval`` is what led to it.

    ``listed_from`` is from when on batches are created that the list may still come to show, in Unix seconds.
    """

    __slots__ = ("batch_id", "created_at", "due", "interval", "listed_from", "listeners", "number")

    def __init__(self, batch_id: str, number: int) -> None:
        self.batch_id = batch_id
        self.number = number
        self.created_at: int | None = None
        self.due = 0.0
        self.interval: float | None = None
        self.listed_from = 0.0
        self.listeners: list[Listener] = []

    @property
    def may_be_listed(self) -> bool:
        return not self.listed_from or (self.created_at or 0.0) > self.listed_from

    def is_nearly_due(self, now: float) -> bool:
        return self.due - now <= (self.interval or 0.0) * SPREAD

    def schedule(self) -> None:
        """Set when to ask again, by the most impatient of those who wait."""
        now = time.time()
        delay = min(delay_of(listener.wait, self.batch_id, now) for listener in self.listeners)
        part = random.uniform(1 - SPREAD, 1) if self.interval is None else 1.0  # noqa: S311 - no secret
        self.interval = delay
        self.due = time.monotonic() + delay * part


def delay_of(wait: Wait, batch_id: str, now: float) -> float:
    """Seconds until one wait wants its batch asked for: its interval, or a last look before the deadline."""
    delay, left = wait.next_in(batch_id, now), wait.deadline - now
    return left - LAST_LOOK if LAST_LOOK < left < delay + LAST_LOOK else delay
