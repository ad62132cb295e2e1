"""The deadlines of many waits, by one timer: ten thousand of them would cost as much as the waits do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_openai_batches.polling.schedule import Listener

# The wall clock may be set meanwhile, and timers go by another one.
LONGEST_SLEEP = 3_600.0
SHORTEST_SLEEP = 0.01


class Deadlines:
    """Ticks each listener when its deadline is over, whatever a request takes."""

    def __init__(self) -> None:
        self._listeners: dict[Listener, None] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    def add(self, listener: Listener) -> None:
        self._listeners[listener] = None
        self.heed(listener)

    def heed(self, listener: Listener) -> None:
        """Take over a deadline that may have changed."""
        if listener.wait.deadline < self._alarm_at:
            self._set_alarm(listener.wait.deadline)

    def discard(self, listener: Listener) -> None:
        self._listeners.pop(listener, None)

    def close(self) -> None:
        if self._alarm:
            self._alarm.cancel()

    def _set_alarm(self, at: float) -> None:
        self.close()
        self._alarm_at = at
        left = min(max(at - time.time(), SHORTEST_SLEEP), LONGEST_SLEEP)
        self._alarm = asyncio.get_running_loop().call_later(left, self._ring)

    def _ring(self) -> None:
        now = time.time()
        for listener in self._listeners:
            if listener.wait.deadline <= now:
                listener.tick()
        waiting = (listener.wait for listener in self._listeners if not listener.wait.verdict)
        self._set_alarm(min((wait.deadline for wait in waiting), default=float("inf")))
