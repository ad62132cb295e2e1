"""What the server counts, for tests to read."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Tally:
    """
    ``executed`` and ``paid``: how often each request line was executed, and how often it succeeded.

    ``custom_ids`` has the custom_id of each of them.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero, except the number of calls in flight."""
        self.requests: Counter[str] = Counter()
        self.peak_in_flight = 0
        self.bytes_uploaded = 0
        self.executed: dict[bytes, int] = {}
        self.paid: dict[bytes, int] = {}
        self.custom_ids: dict[bytes, str] = {}

    def begin(self, operation: str) -> None:
        self.requests[operation] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def end(self) -> None:
        self.in_flight -= 1

    def count_execution(self, digest: bytes, custom_id: str, *, succeeded: bool) -> None:
        self.custom_ids[digest] = custom_id
        self.executed[digest] = self.executed.get(digest, 0) + 1
        if succeeded:
            self.paid[digest] = self.paid.get(digest, 0) + 1

    def answers(self, at_least: int) -> list[dict[str, Any]]:
        """The requests that succeeded so many times or more often; 0 gives all that were executed."""
        return [
            {"custom_id": self.custom_ids[digest], "executed": executed, "answered": answered}
            for digest, executed in self.executed.items()
            if (answered := self.paid.get(digest, 0)) >= at_least
        ]

    def stats(self) -> dict[str, Any]:
        executed, paid = list(self.executed.values()), list(self.paid.values())
        return {
            "requests": dict(self.requests),
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "bytes_uploaded": self.bytes_uploaded,
            "request_lines_executed": sum(executed),
            "executed_distinct": len(executed),
            "executed_more_than_once": sum(count > 1 for count in executed),
            "request_lines_paid": sum(paid),
            "paid_distinct": len(paid),
            "paid_more_than_once": sum(count > 1 for count in paid),
        }
