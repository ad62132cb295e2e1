"""
The state of one wait for one or more batches, which answers and failures change.

``saw`` takes a Batch object, ``failed`` an error, and ``tick`` only the time. Each may add lines for the
task's log, and may end the wait. Nothing here sleeps, sends or logs. Times are Unix seconds.

Statuses: https://developers.openai.com/api/docs/guides/batch#4-check-the-status-of-a-batch
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_provider_openai_batches.api.retry import is_refusal
from airflow_provider_openai_batches.exceptions import APIError, InvalidConnectionError, InvalidInputError
from airflow_provider_openai_batches.polling import progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.models import Batch

ReturnWhen = Literal["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "ONE_LEFT"]
RETURN_WHEN: tuple[ReturnWhen, ...] = ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "ONE_LEFT")

# A batch without an end time may run this much longer than its window before the wait gives up.
GRACE = 3_600.0
# A window of 24 hours and the grace, for a batch that does not say when it expires.
UNKNOWN_WINDOW = 90_000.0
# A last look is taken this many seconds before the deadline.
LAST_LOOK = 1.0
# The first 404 may come from a replica that lags behind. One that comes this much later counts.
MISSING_TWICE_WITHIN = 3.0
ASK_MISSING_AFTER = 5.0
# A key that is being rotated is refused for a while. The wait ends after this many refusals in a row; the
# connection is read again after each.
REFUSALS = 5
ASK_REFUSED_AFTER = 30.0
ASK_SILENT_AFTER = 5.0
# If the interval may grow, it is this fraction of the batch's age.
PART_OF_AGE = 0.02
PROGRESS_EVERY = 60.0
TROUBLE_EVERY = 60.0
TROUBLE_AT_MOST_EVERY = 3_600.0
# Seconds. A shorter wait does not end for one batch that is left: that costs a worker's start, and time.
SHORT_WAIT = 60.0
# A short failure soon after another one is not worth a line; one that lasts is.
HICCUP_EVERY = 900.0


class Line(NamedTuple):
    """A line for the task's log; ``level`` is one of :mod:`logging`."""

    level: int
    text: str


class Ending(NamedTuple):
    """How a wait ended: ``finished``, ``timeout`` or ``error``."""

    status: Literal["finished", "timeout", "error"]
    message: str


class Trouble:
    """Failures in a row that may pass. ``said`` is whether the log mentions them."""

    __slots__ = ("batch_id", "next_line", "said", "since")

    def __init__(self, now: float, batch_id: str | None) -> None:
        self.since = now
        self.batch_id = batch_id
        self.next_line = now
        self.said = False


class Wait:
    """
    What one trigger waits for; at its ``deadline`` it ends with a ``timeout``.

    :param batch_ids: with none at all, this is a pause until ``end_time``.
    :param poll_interval: seconds.
    :param now: when the wait begins.
    :param end_time: the deadline. None means an hour after the last batch's ``expires_at``, or 25 hours after
        the beginning where that is unknown.
    :param return_when: whether the wait ends with the last of its batches, with the first, when one is left,
        or with the first that leaves requests without an answer.
    :param job: what the job had done before, see :class:`.progress.JobProgress`.
    :param max_poll_interval: seconds up to which the interval grows with a batch's age.
    """

    __slots__ = (
        "_began",
        "_denials",
        "_end_time",
        "_hiccup_at",
        "_job",
        "_max_poll_interval",
        "_missing",
        "_poll_interval",
        "_return_when",
        "_said",
        "_said_at",
        "_trouble",
        "deadline",
        "ending",
        "lines",
        "pending",
        "seen",
    )

    def __init__(
        self,
        batch_ids: Iterable[str],
        *,
        poll_interval: float,
        now: float,
        end_time: float | None = None,
        return_when: ReturnWhen = "ALL_COMPLETED",
        job: progress.JobProgress | None = None,
        max_poll_interval: float | None = None,
    ) -> None:
        self.pending: dict[str, None] = dict.fromkeys(batch_ids)
        self.seen: dict[str, progress.Seen | None] = dict.fromkeys(self.pending)
        self.ending: Ending | None = None
        self.lines: list[Line] = []
        self._poll_interval = poll_interval
        self._max_poll_interval = max_poll_interval
        self._began = now
        self._end_time = end_time
        self._return_when = return_when
        self._job = job
        self._said = ""
        self._said_at = 0.0
        self._trouble: Trouble | None = None
        self._hiccup_at = now
        self._missing: dict[str, float] = {}
        self._denials: dict[str | None, int] = {}
        self.deadline = self._latest()
        self.tick(now)

    @property
    def statuses(self) -> dict[str, str]:
        """The status of each batch as last seen, or ``unknown``."""
        return {batch_id: seen.status if seen else "unknown" for batch_id, seen in self.seen.items()}

    def next_in(self, batch_id: str, now: float) -> float:
        """Return the seconds until the batch should be asked about again."""
        delay, left = self._interval(batch_id, now), self.deadline - now
        if batch_id in self._missing:
            delay = min(delay, ASK_MISSING_AFTER)
        elif None in self._denials or batch_id in self._denials:
            delay = min(delay, ASK_REFUSED_AFTER)
        elif self._trouble:
            delay = min(delay, max(ASK_SILENT_AFTER, (now - self._trouble.since) / 2))
        return left - LAST_LOOK if LAST_LOOK < left < delay + LAST_LOOK else delay

    def saw(self, batch: Batch, now: float) -> None:
        """Take a whole Batch object, from a retrieve or a list."""
        if batch.id not in self.pending or self.ending:
            return
        self._answered(batch.id, now)
        before = self.seen[batch.id]
        after = self.seen[batch.id] = progress.Seen.of(batch, now, before)
        if after.is_over:
            del self.pending[batch.id]
        if before is None or after.is_over or before.expires_at != after.expires_at:
            self.deadline = self._latest()
        self._speak(before, after, now)
        if after.is_over or len(self.pending) == 1:
            self.tick(now)

    def failed(self, error: Exception, now: float, batch_id: str | None = None) -> None:
        """Take a failure: of one batch, or of the whole connection (``batch_id`` is None)."""
        if self.ending:
            return
        status = error.status if isinstance(error, APIError) else None
        if status == HTTPStatus.NOT_FOUND and batch_id:
            self._not_found(error, now, batch_id)
        elif is_refusal(error) or isinstance(error, InvalidConnectionError):
            self._denied(error, batch_id)
        elif isinstance(error, InvalidInputError):
            self._end("error", str(error))
        else:
            self._stumbled(error, now, batch_id)

    def tick(self, now: float) -> None:
        """End the wait if its condition is met, or its deadline has passed."""
        if self.ending:
            return
        if self.seen and (not self.pending or self._is_enough(now)):
            self._end("finished", progress.ending(self.statuses))
        elif now >= self.deadline and not self.seen:
            self._end("finished", "The pause is over.")
        elif now >= self.deadline:
            self._end(
                "timeout", progress.overdue(self.deadline, self.seen, self.pending, self._last_trouble(now))
            )

    def _is_enough(self, now: float) -> bool:
        if self._return_when == "FIRST_COMPLETED":
            return len(self.pending) < len(self.seen)
        if self._return_when == "ALL_COMPLETED":
            return False
        if len(self.pending) == 1 < len(self.seen) and now - self._began >= SHORT_WAIT:
            return True
        left = (seen is not None and seen.left_something for seen in self.seen.values())
        return self._return_when == "FIRST_EXCEPTION" and any(left)

    def _end(self, status: Literal["finished", "timeout", "error"], message: str) -> None:
        self.ending = Ending(status, message)

    def _deadline_of(self, batch_id: str) -> float:
        seen = self.seen[batch_id]
        if seen is None or seen.expires_at is None:
            return self._began + UNKNOWN_WINDOW
        return seen.expires_at + GRACE

    def _latest(self) -> float:
        if self._end_time is not None:
            return self._end_time
        return max((self._deadline_of(batch_id) for batch_id in self.pending), default=self._began)

    def _interval(self, batch_id: str, now: float) -> float:
        if self._max_poll_interval is None:
            return self._poll_interval
        seen = self.seen[batch_id]
        born = (seen and seen.created_at) or self._began
        return max(self._poll_interval, min((now - born) * PART_OF_AGE, self._max_poll_interval))

    # -- failures --------------------------------------------------------------------------------------------

    def _not_found(self, error: Exception, now: float, batch_id: str) -> None:
        first = self._missing.setdefault(batch_id, now)
        if now - first >= MISSING_TWICE_WITHIN:
            self._end(
                "error",
                f"The service does not know batch {batch_id!r} ({error}). Check the id, and that the "
                "connection's key belongs to the project that created the batch.",
            )
        elif now == first:
            self._warn(f"{batch_id}: {error}; asking once more")

    def _denied(self, error: Exception, batch_id: str | None) -> None:
        count = self._denials[batch_id] = self._denials.get(batch_id, 0) + 1
        if count >= REFUSALS:
            self._end(
                "error",
                f"{error} This was the answer to {REFUSALS} polls in a row, and reading the Airflow "
                "connection again did not help. Check its key and base URL.",
            )
        elif count == 1:
            self._warn(f"{error} Reading the connection again, up to {REFUSALS - 1} times")

    def _stumbled(self, error: Exception, now: float, batch_id: str | None) -> None:
        trouble = self._trouble
        if trouble is None:
            trouble = self._trouble = Trouble(now, batch_id)
            if now < self._hiccup_at:
                trouble.next_line = now + TROUBLE_EVERY
        if now < trouble.next_line:
            return
        past = now - trouble.since
        trouble.next_line = now + min(max(past, TROUBLE_EVERY), TROUBLE_AT_MOST_EVERY)
        self._hiccup_at = now + HICCUP_EVERY
        if past:
            self._warn(f"No good answer for {progress.duration(past)} ({error}); still asking")
        else:
            self._warn(f"{error}; this may pass, asking again until {progress.moment(self.deadline)}")
        trouble.said = True

    def _answered(self, batch_id: str, now: float) -> None:
        self._missing.pop(batch_id, None)
        self._denials.pop(batch_id, None)
        self._denials.pop(None, None)
        trouble = self._trouble
        if trouble and trouble.batch_id in {None, batch_id}:
            self._trouble = None
            if trouble.said:
                past = progress.duration(now - trouble.since)
                self.lines.append(Line(logging.INFO, f"The service answers again, after {past}"))

    def _last_trouble(self, now: float) -> str:
        return f" No good answer for {progress.duration(now - self._trouble.since)}." if self._trouble else ""

    def _warn(self, text: str) -> None:
        self.lines.append(Line(logging.WARNING, text))

    # -- progress --------------------------------------------------------------------------------------------

    def _speak(self, before: progress.Seen | None, after: progress.Seen, now: float) -> None:
        """Log each change of status at once, and other progress at most once a minute."""
        changed = before is None or before.status != after.status
        if not changed and now - self._said_at < PROGRESS_EVERY:
            return
        line, name = self._progress(after, now), after.id
        if line == self._said and not changed:
            return
        self._said, self._said_at = line, now
        if len(self.seen) > 1 or self._job:
            text = f"{name} {after.status}; {line}" if changed else line
        else:
            text = f"{name} {line}" if before is None else line
        self.lines.append(Line(logging.INFO, text))

    def _progress(self, after: progress.Seen, now: float) -> str:
        if len(self.seen) > 1 or self._job:
            return progress.several(self.seen.values(), self._job or progress.JobProgress(), now)
        return progress.single(after, now)

    def payload(self) -> dict[str, Any]:
        """
        Return the event's payload: plain JSON values.

        :raises ValueError: if the wait has not ended.
        """
        if self.ending is None:
            raise ValueError("The wait has not ended.")
        return {**self.ending._asdict(), "batches": self.statuses}
