"""A cache of calls: many viewers who ask for the same thing cause one call."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable


class _Entry:
    """A call that is running, or its answer and the time at which that came."""

    def __init__(self, call: Awaitable[Any], clock: Callable[[], float]) -> None:
        self.answered_at: float | None = None
        self.task = asyncio.ensure_future(call)
        self.task.add_done_callback(lambda _: self._answered(clock()))

    def _answered(self, now: float) -> None:
        self.answered_at = now
        if not self.task.cancelled():
            self.task.exception()  # read, because asyncio complains about an error that nobody has read


class CallCache:
    """
    Keep each answer for a few seconds, and each error too, so that a dead service gets no extra calls.

    Callers who ask while the call is running wait for that call. If one of them gives up, the call goes on.

    :param seconds: how long an answer is kept after it has arrived.
    :param size: the highest number of answers that are kept.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic, size: int = 500) -> None:
        self._seconds = seconds
        self._clock = clock
        self._size = size
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, call: Callable[[], Awaitable[Any]]) -> Any:
        entry = self._entries.get(key)
        if entry is None or self._is_stale(entry):
            self._make_room()
            entry = self._entries[key] = _Entry(call(), self._clock)
        return await asyncio.shield(entry.task)

    def clear(self) -> None:
        """Forget all answers, because something was changed."""
        self._entries.clear()

    def _is_stale(self, entry: _Entry) -> bool:
        return entry.answered_at is not None and self._clock() - entry.answered_at >= self._seconds

    def _make_room(self) -> None:
        if len(self._entries) >= self._size:
            self._entries = {key: entry for key, entry in self._entries.items() if not self._is_stale(entry)}
        while len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
