"""A thread that does one job after the other, each as soon as possible or at a set time."""

from __future__ import annotations

import logging
import threading
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver.clock import BatchClock

logger = logging.getLogger(__name__)
SHORTEST_PAUSE = 0.001


class Worker:
    """The thread starts with the first job."""

    def __init__(self, clock: BatchClock) -> None:
        self._clock = clock
        self._jobs: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], object], due: float = -inf) -> None:
        """Do ``job`` once the batch clock shows ``due``; by default, as soon as possible."""
        with self._changed:
            if self._closed:
                return
            heappush(self._jobs, (due, next(self._numbers), job))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="devserver-worker", daemon=True)
                self._thread.start()
            self._changed.notify()

    def wake(self) -> None:
        """Look at the clock again, because it was changed."""
        with self._changed:
            self._changed.notify()

    def clear(self) -> None:
        with self._changed:
            self._jobs.clear()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _pause(self) -> float | None:
        """How many seconds to wait for the next job; None if there is no job."""
        if not self._jobs:
            return None
        due = self._jobs[0][0]
        if due == -inf or (left := due - self._clock.now()) <= 0:
            return 0
        return max(left / self._clock.speed, SHORTEST_PAUSE)

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._closed and (pause := self._pause()) != 0:
                self._changed.wait(pause)
            return None if self._closed else heappop(self._jobs)[2]

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                logger.exception("A job of the dev server failed")
