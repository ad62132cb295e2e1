"""The clock by which batches age."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class BatchClock:
    """
    A clock that can run faster than real time, and that can be stopped. While it is stopped, no batch ages.

    :param real: the real time, in Unix seconds.
    """

    def __init__(self, real: Callable[[], float]) -> None:
        self._real = real
        self.restart()

    def restart(self) -> None:
        """Show the real time again, and run at its speed."""
        self.speed = 1.0
        self._lost = 0.0
        self._stopped_at: float | None = None
        self._changed_at = self._gained = 0.0

    def wall(self) -> float:
        """Unix seconds, as the server shows them."""
        real = self._real()
        return real + self._gained + (real - self._changed_at) * (self.speed - 1)

    def run(self, speed: float) -> None:
        """From now on, let ``speed`` seconds pass in each real second."""
        if speed != self.speed:
            real, shown = self._real(), self.wall()
            self._changed_at, self._gained, self.speed = real, shown - real, speed

    def now(self) -> float:
        return (self.wall() if self._stopped_at is None else self._stopped_at) - self._lost

    def freeze(self, frozen: bool) -> None:
        if frozen and self._stopped_at is None:
            self._stopped_at = self.wall()
        elif not frozen and self._stopped_at is not None:
            self._lost += self.wall() - self._stopped_at
            self._stopped_at = None
