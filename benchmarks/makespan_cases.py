"""The cases of the makespan benchmark, and the time that an ideal scheduler would need for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUR = 3_600.0
CHAT = "/v1/chat/completions"
MODEL = "gpt-5-mini"
TOKENS = 100  # of each request; the server counts four bytes of a body as a token
SEED = 7
ENDING_TAKES = 0.1  # of a batch's time, from its cancel to its end at the dev server


@dataclass(frozen=True)
class Task:
    """What a job's process is told."""

    name: str
    base_url: str
    folder: str
    speed: float
    rows: int
    requests_per_batch: int = 50_000
    poll_interval: float = 60.0
    options: dict[str, Any] = field(default_factory=dict)


def bodies(task: Task) -> Iterator[dict[str, Any]]:
    """Requests of TOKENS tokens each; those of two tasks differ."""
    for number in range(task.rows):
        text = f"{task.name} {number:>8} "
        bare = len(f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"{text}"}}]}}')
        text += "x" * (TOKENS * 4 - bare)
        yield {"model": MODEL, "messages": [{"role": "user", "content": text}]}


@dataclass(frozen=True)
class Case:
    """
    A job, or several at the same time, and how the service treats their batches. Times are in hours.

    :param rows: of each job.
    :param batches: of each job.
    :param hours: how long the first batches take; ``again`` is how long all others take.
    :param share: the fraction of the rows that fail in passing; ``fails`` has others for the first batches.
    :param limit: the enqueued-token limit, in batches of the first round.
    :param jobs: how many begin at the same time.
    :param answer_by: after so many hours the rest is asked live, of which the service answers ``burst`` at
        once, and then ``live_rate`` a real second. Such a case's batches never begin.
    :param within: after this many hours a job counts as never ending.
    """

    name: str
    rows: int
    batches: int
    hours: tuple[float | None, ...] = ()
    again: float = 2.0
    share: float = 0.0
    fails: tuple[float | None, ...] = ()
    limit: float | None = None
    jobs: int = 1
    answer_by: float | None = None
    burst: int = 0
    live_rate: float = 0.0
    within: float = 60.0

    @property
    def requests_per_batch(self) -> int:
        return self.rows // self.batches

    @property
    def limit_in_tokens(self) -> int | None:
        return None if self.limit is None else int(self.limit * self.requests_per_batch * TOKENS)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the dev server."""
        limit = self.limit_in_tokens
        live = self.live_settings if self.answer_by else {}
        return live | {
            "window_seconds": 24 * HOUR,
            "batch_seconds_by_number": [each and each * HOUR for each in self.hours],
            "failing_share": self.share,
            "failing_share_by_number": list(self.fails),
            "enqueued_token_limits": {} if limit is None else {MODEL: limit},
            "seed": SEED,
        }

    @property
    def live_settings(self) -> dict[str, Any]:
        """Those for a batch that never begins, and for what is asked live: its clock is the real one."""
        return {
            "validating_seconds": 1_000 * HOUR,
            "requests_per_minute": self.burst,
            "minute_seconds": self.burst / self.live_rate,
        }

    def ideal(self, runs: Callable[[int, int], int], speed: float) -> float:
        """
        The hours that no scheduler can go below, even if it knows all that will happen.

        :param runs: how often a row must be asked, by the number of its batch and of the row.
        :param speed: of the server's clock.
        """
        if self.answer_by is not None:
            live = (self.rows - self.burst) / self.live_rate * speed / HOUR
            return self.answer_by + self.again * ENDING_TAKES + live
        return max(self._longest_chain(runs), self._queue(runs))

    def _longest_chain(self, runs: Callable[[int, int], int]) -> float:
        """A row is asked again only when it has failed, so its batches follow one another."""
        each = self.requests_per_batch
        first = [self.hours[n] if n < len(self.hours) else None for n in range(self.batches)]
        return max(
            (self.again if hours is None else hours)
            + self.again * (max(runs(batch, row) for row in range(batch * each, (batch + 1) * each)) - 1)
            for batch, hours in enumerate(first)
        )

    def _queue(self, runs: Callable[[int, int], int]) -> float:
        """In the time that the quickest batch takes, no more tokens than the limit go through."""
        if self.limit_in_tokens is None:
            return 0.0
        each = self.requests_per_batch
        requests = self.jobs * sum(runs(row // each, row) for row in range(self.rows))
        per_queue = self.limit_in_tokens // TOKENS
        return ceil(requests / per_queue) * min(self.again, *(hours for hours in self.hours if hours), 1e9)


CASES = [
    # One slow batch among nine quick ones, of whose rows a tenth fails in passing.
    Case("tail", rows=1_000, batches=10, hours=(*(None,) * 4, 12.0), share=0.1, fails=(*(None,) * 4, 0.0)),
    # The account's limit holds three of twelve batches.
    Case("limit", rows=1_200, batches=12, limit=3.5),
    # The one file of the job is larger than the limit.
    Case("oversize", rows=1_000, batches=1, limit=0.3),
    # Three jobs of ten batches each begin at the same time, and the limit holds three batches.
    Case("three", rows=1_000, batches=10, limit=3.3, jobs=3),
    # A batch that never ends is given up after four hours, and its rows are asked live.
    Case("deadline", rows=5_000, batches=1, answer_by=4.0, burst=600, live_rate=100.0),
]
