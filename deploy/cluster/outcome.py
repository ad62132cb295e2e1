"""What came of a run, as a table, and whether all is well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping

MEGABYTE = 1_000_000


@dataclass(kw_only=True)
class Outcome:
    """
    All that is known of a run when it is over.

    :ivar state: of the DAG run; ``running`` if the time was up before its end.
    :ivar loaded: rows in the table of answers.
    :ivar right: those of them that answer the question of their own row.
    :ivar stats: the counts of the Batch API.
    :ivar spans: when each batch was created and when it was over, in seconds.
    :ivar wall: seconds from the trigger to the end of the run.
    :ivar memory: the most bytes that a task process had in memory.
    :ivar scratch: the most bytes of a worker's temporary files.
    :ivar seconds: how long the last try of each task took, from its start or resumption.
    """

    rows: int
    state: str
    loaded: int
    right: int
    stats: Mapping[str, Any]
    spans: Iterable[tuple[float, float]]
    wall: float
    memory: int
    scratch: int
    store: Counter[str]
    kills: Counter[str]
    tries: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def lost(self) -> int:
        return self.rows - self.right

    @property
    def twice(self) -> int:
        return int(self.stats["paid_more_than_once"])

    @property
    def running(self) -> int:
        return int(self.stats["batches"]["running"])

    @property
    def is_complete(self) -> bool:
        return self.loaded == self.right == self.rows

    @property
    def is_good(self) -> bool:
        return self.state == "success" and self.is_complete and not (self.twice or self.running)

    def table(self) -> str:
        """The table in Markdown."""
        own = covered(self.spans)
        by_status = _counts(self.stats["batches"]["by_status"])
        lines = {
            "rows": f"{self.rows:,}",
            "run": f"{self.state}; tries: {_counts(self.tries)}",
            "processes killed": f"{self.kills.total()} ({_counts(self.kills)})",
            "batches": f"{self.stats['batches']['stored']} ({by_status})",
            "requests paid": f"{self.stats['request_lines_paid']:,}",
            "**requests paid twice**": f"**{self.twice:,}**",
            "**rows lost**": f"**{self.lost:,}**",
            "**batches left running**": f"**{self.running}**",
            "**table complete**": f"**{'yes' if self.is_complete else 'no'}** ({self.loaded:,} rows)",
            "wall time": f"{self.wall:.0f} s; batches ran for {own:.0f} s of it",
            "wall time beyond the batches' own": f"{self.wall - own:.0f} s",
            "the last step of each task": _times(self.seconds),
            "memory of a task, at most": f"{self.memory / MEGABYTE:.0f} MB",
            "temporary files of a worker, at most": f"{self.scratch / MEGABYTE:.1f} MB",
            "requests to the store": f"{self.store.total()} ({_counts(self.store)})",
        }
        return "\n".join(
            ["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in lines.items())]
        )


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How many seconds lie in at least one of the spans."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _times(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {time:.1f} s" for name, time in sorted(seconds.items())) or "none"


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(found.items())) or "none"
