"""PURE: how fast one connection is asked; a 429 slows it down, good answers speed it up again."""

from __future__ import annotations

from airflow_provider_openai_batches.api.retry import MAX_RETRY_AFTER

PER_SECOND = 50.0
SLOWEST_GAP = 1.0
SPEED_UP = 0.8
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class Pace:
    """
    Turns for requests, evenly apart.

    :param per_second: requests a second at the most.
    """

    def __init__(self, per_second: float = PER_SECOND) -> None:
        self._shortest_gap = 1 / per_second
        self._gap = self._shortest_gap
        self._free_at = 0.0
        self._slowed_at = 0.0
        self._pause = FIRST_PAUSE
        self.paused_until = 0.0

    def turn(self, now: float) -> float:
        """Take the next turn, and say how many seconds it is away."""
        start = max(now, self._free_at, self.paused_until)
        self._free_at = start + self._gap
        return start - now

    def answered(self) -> None:
        self._gap = max(self._shortest_gap, self._gap * SPEED_UP)
        self._pause = FIRST_PAUSE

    def slowed(self, started: float, now: float, retry_after: float | None) -> None:
        """
        Take a 429.

        :param started: when the request was sent: those that were under way together count once.
        """
        if started < self._slowed_at:
            return
        self._slowed_at = now
        self._gap = min(self._gap * 2, SLOWEST_GAP)
        pause = max(self._pause, min(retry_after or 0.0, MAX_RETRY_AFTER))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self.paused_until = self._free_at = now + pause
