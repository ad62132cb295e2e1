"""What the server counts, for tests to ask for."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Tally:
    """``executed`` and ``paid``: by digest of a request line, how often it ran and how often it succeeded."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.bytes_uploaded = 0
        self.executed: dict[bytes, int] = {}
        self.paid: dict[bytes, int] = {}

    def reset(self) -> None:
        in_flight = self.in_flight
        self.__init__()  # type: ignore[misc]
        self.in_flight = in_flight

    def begin(self, operation: str) -> None:
        self.requests[operation] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def end(self) -> None:
        self.in_flight -= 1

    def run(self, digest: bytes, *, succeeded: bool) -> None:
        self.executed[digest] = self.executed.get(digest, 0) + 1
        if succeeded:
            self.paid[digest] = self.paid.get(digest, 0) + 1

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
