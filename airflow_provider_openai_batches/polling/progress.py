"""The progress of batches and the time they may still take, also in words for the log."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.api.models import Batch

NAMED_AT_MOST = 10
MINUTE, HOUR, DAY = 60, 3_600, 86_400
# Seconds; more than three thousand years can only come from a wrong clock.
LONGEST = 1e11


class Seen(msgspec.Struct, frozen=True, gc=False):
    """
    The fields of a batch that a wait needs; ten thousand of these take a few megabytes.

    ``since`` is the service's own time of the status, or when it was first seen.
    """

    id: str
    status: str
    since: float
    is_over: bool
    total: int = 0
    completed: int = 0
    failed: int = 0
    created_at: int | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None

    @classmethod
    def of(cls, batch: Batch, now: float, before: Seen | None = None) -> Seen:
        """Return what is seen now; ``before`` is what was seen last."""
        said = (
            batch.created_at if batch.status == "validating" else getattr(batch, f"{batch.status}_at", None)
        )
        if said is None and before and before.status == batch.status:
            said = before.since
        counts = batch.counts
        return cls(
            id=batch.id,
            status=batch.status,
            since=said or now,
            is_over=batch.is_over,
            total=counts.total,
            completed=counts.completed,
            failed=counts.failed,
            created_at=batch.created_at,
            in_progress_at=batch.in_progress_at,
            expires_at=batch.expires_at,
        )

    @property
    def has_begun(self) -> bool:
        """Whether any of its requests was answered, or it is over."""
        return self.is_over or self.completed + self.failed > 0

    @property
    def left_something(self) -> bool:
        """Whether it is over and not all of its requests were answered."""
        return self.is_over and (self.status != "completed" or self.failed > 0 or self.completed < self.total)


class JobProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What a job of many batches had done before this wait, so that the log can report on the whole job.

    :param batches: all batches of the job, including those of this wait and those still to come.
    :param finished: batches that had ended before.
    :param total: all requests of the job. 0 means those done before plus those of this wait's batches.
    :param completed: completed requests of the batches that had ended before.
    :param failed: failed requests of those batches.
    :param round: how many times failed requests have been sent again.
    :param again: rows that were asked again, in the batches that had ended and in those that had not.
    :param live: rows that were answered live; ``completed`` has them too.
    :param tokens_in_line: estimated prompt tokens of all unfinished batches of the models.
    :param token_limit: how many there may be; 0: it is not known.
    """

    batches: int = 0
    finished: int = 0
    total: int = 0
    completed: int = 0
    failed: int = 0
    round: int = 0
    again: int = 0
    live: int = 0
    tokens_in_line: int = 0
    token_limit: int = 0


def single(seen: Seen, now: float) -> str:
    """``in_progress 312/1000 (31%), 2 failed, about 14 min left``."""
    parts = [seen.status]
    if seen.total:
        parts[0] += f" {seen.completed}/{seen.total} ({seen.completed * 100 // seen.total}%)"
    if seen.failed:
        parts.append(f"{seen.failed} failed")
    return ", ".join(parts + _left(time_left([seen], now)))


def several(batches: Iterable[Seen | None], job: JobProgress, now: float) -> str:
    """
    ``7 of 20 batches done, 412,330/1,000,000 requests, 1.2% failed, round 1, about 2 h left``.

    Batches that have not begun have no pace, so the time left is said to be that at the pace of the others.
    """
    waited = list(batches)
    known = [seen for seen in waited if seen]
    completed = job.completed + sum(seen.completed for seen in known)
    failed = job.failed + sum(seen.failed for seen in known)
    total = job.total or job.completed + job.failed + sum(seen.total for seen in known)
    finished = job.finished + sum(seen.is_over for seen in known)
    parts = [f"{finished} of {job.batches or job.finished + len(waited)} batches done"]
    if total:
        parts.append(f"{completed:,}/{total:,} requests")
    if failed:
        parts.append(f"{failed / (completed + failed):.1%} failed")
    if job.round:
        parts.append(f"round {job.round}")
    counts = {"asked again": job.again, "answered live": job.live}
    parts += [f"{count:,} {what}" for what, count in counts.items() if count]
    if job.token_limit:
        parts.append(f"{job.tokens_in_line:,} of {job.token_limit:,} tokens in line")
    left = _left(time_left(known, now, total - completed - failed))
    idle = (job.batches or job.finished + len(waited)) - job.finished - sum(seen.has_begun for seen in known)
    if left and idle > 0:
        left = [f"{left[0]} at this pace", f"{idle} {'batch has' if idle == 1 else 'batches have'} not begun"]
    return ", ".join(parts + left)


def time_left(batches: Iterable[Seen], now: float, requests: int | None = None) -> float | None:
    """
    Estimate how long the remaining requests take, at the average pace so far of the batches in progress.

    :param requests: how many are still to be done; None means all that the batches have left.
    :return: seconds, or None if nothing is left or the pace is not known.
    """
    pace, remaining = 0.0, 0
    for seen in batches:
        done = seen.completed + seen.failed
        remaining += seen.total - done
        if seen.status == "in_progress" and seen.in_progress_at and now > seen.in_progress_at:
            pace += done / (now - seen.in_progress_at)
    remaining = remaining if requests is None else requests
    return remaining / pace if pace > 0 and remaining > 0 else None


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"about {duration(seconds)} left"]


def ending(statuses: Mapping[str, str]) -> str:
    """Say which statuses the batches of a finished wait have."""
    if len(statuses) == 1:
        return " ".join(*statuses.items())
    counts = Counter(statuses.values())
    return f"{len(statuses)} batches: " + ", ".join(f"{number} {status}" for status, number in counts.items())


def overdue(deadline: float, seen: Mapping[str, Seen | None], pending: Iterable[str], trouble: str) -> str:
    """Say what still runs at the deadline, in which status, and since when."""
    running = list(pending)
    words = [_standing(batch_id, seen[batch_id]) for batch_id in running[:NAMED_AT_MOST]]
    if len(running) > NAMED_AT_MOST:
        words.append(f"and {len(running) - NAMED_AT_MOST} more")
    return f"The deadline {moment(deadline)} has passed. Still running: {'; '.join(words)}.{trouble}"


def _standing(batch_id: str, seen: Seen | None) -> str:
    if seen is None:
        return f"{batch_id}, which was never seen"
    counts = f" ({seen.completed + seen.failed} of {seen.total} requests done)" if seen.total else ""
    return f"{batch_id} {seen.status} since {moment(seen.since)}{counts}"


def moment(seconds: float) -> str:
    """``2026-01-31 12:00:00 UTC``."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def duration(seconds: float) -> str:
    """``40 s``, ``14 min``, ``3 h 5 min``, ``1 d 2 h``; ``0 s`` for a negative time."""
    if not seconds < LONGEST:  # true for NaN too
        return "an unknown time"
    seconds = max(seconds, 0)
    if round(seconds) < MINUTE:
        return f"{round(seconds)} s"
    if (minutes := round(seconds / MINUTE)) < HOUR // MINUTE:
        return f"{minutes} min"
    if minutes < DAY // MINUTE:
        large, small, names = *divmod(minutes, HOUR // MINUTE), ("h", "min")
    else:
        large, small, names = *divmod(round(seconds / HOUR), DAY // HOUR), ("d", "h")
    return f"{large} {names[0]} {small} {names[1]}" if small else f"{large} {names[0]}"
