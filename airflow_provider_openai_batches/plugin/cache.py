"""PURE: one answer for many viewers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable


class _Entry:
    """A call under way, or its answer and when that came."""

    def __init__(self, call: Awaitable[Any], clock: Callable[[], float]) -> None:
        self.answered_at: float | None = None
        self.task = asyncio.ensure_future(call)
        self.task.add_done_callback(lambda _: self._answered(clock()))

    def _answered(self, now: float) -> None:
        self.answered_at = now
        if not self.task.cancelled():
            self.task.exception()  # looked at, so that asyncio does not complain when every viewer has left


class SharedCalls:
    """
    Answers that serve everybody for some seconds; failures too, so that a dead service is asked no oftener.

    Who asks while the call is under way waits for that call. One who stops waiting does not stop it.

    :param seconds: how long an answer serves.
    :param size: how many answers are kept at the most.
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

    def forget(self) -> None:
        """Ask anew for everything: something was changed."""
        self._entries.clear()

    def _is_stale(self, entry: _Entry) -> bool:
        return entry.answered_at is not None and self._clock() - entry.answered_at >= self._seconds

    def _make_room(self) -> None:
        if len(self._entries) >= self._size:
            self._entries = {key: entry for key, entry in self._entries.items() if not self._is_stale(entry)}
        while len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
