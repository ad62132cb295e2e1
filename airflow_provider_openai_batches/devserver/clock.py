"""The clock by which batches age."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class BatchClock:
    """
    A clock that can be stopped. While it is stopped, no batch ages.

    :param wall: the wall clock, in Unix seconds.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self.wall = wall
        self._lost = 0.0
        self._stopped_at: float | None = None

    def now(self) -> float:
        return (self.wall() if self._stopped_at is None else self._stopped_at) - self._lost

    def freeze(self, frozen: bool) -> None:
        if frozen and self._stopped_at is None:
            self._stopped_at = self.wall()
        elif not frozen and self._stopped_at is not None:
            self._lost += self.wall() - self._stopped_at
            self._stopped_at = None
