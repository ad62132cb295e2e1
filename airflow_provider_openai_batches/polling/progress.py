"""PURE: how far batches are, how long they may take, and the words for it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.api.models import Batch

NAMED_AT_MOST = 10


class Seen(msgspec.Struct, frozen=True, gc=False):
    """The part of a batch that waiting needs; ten thousand of them fit into a few megabytes."""

    id: str
    status: str
    since: float
    total: int = 0
    completed: int = 0
    failed: int = 0
    created_at: int | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL_STATUSES

    @classmethod
    def of(cls, batch: Batch, now: float, before: Seen | None) -> Seen:
        """``since`` is the service's own time of the status, or when it was first seen."""
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
            total=counts.total,
            completed=counts.completed,
            failed=counts.failed,
            created_at=batch.created_at,
            in_progress_at=batch.in_progress_at,
            expires_at=batch.expires_at,
        )


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What of a job of many batches was done before this wait, so that the log speaks of the whole job.

    :param batches: all batches of the job, those of this wait and those still to come included.
    :param finished: batches that were over before.
    :param total: all requests of the job; 0 is the sum of what this wait's batches have and what was done.
    :param completed: requests that were completed in the batches that were over before.
    :param failed: requests that had failed in them.
    :param round: which round of asking again this is.
    """

    batches: int = 0
    finished: int = 0
    total: int = 0
    completed: int = 0
    failed: int = 0
    round: int = 0


def single(seen: Seen, now: float) -> str:
    """``in_progress 312/1000 (31%), 2 failed, about 14 min left``."""
    parts = [seen.status]
    if seen.total:
        parts[0] += f" {seen.completed}/{seen.total} ({seen.completed * 100 // seen.total}%)"
    if seen.failed:
        parts.append(f"{seen.failed} failed")
    left = _left([seen], seen.total - seen.completed - seen.failed, now)
    return ", ".join(parts + left)


def several(batches: Iterable[Seen | None], job: Job, now: float) -> str:
    """``7 of 20 batches done, 412,330/1,000,000 requests, 1.2% failed, round 1, about 2 h left``."""
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
    return ", ".join(parts + _left(known, total - completed - failed, now))


def _left(batches: Iterable[Seen], requests: int, now: float) -> list[str]:
    """The time that so many requests take at the average pace of the batches that run."""
    pace = 0.0
    for seen in batches:
        if seen.status == "in_progress" and seen.in_progress_at and now > seen.in_progress_at:
            pace += (seen.completed + seen.failed) / (now - seen.in_progress_at)
    return [f"about {duration(requests / pace)} left"] if pace > 0 and requests > 0 else []


def ending(statuses: Mapping[str, str]) -> str:
    """Say how the batches of a finished wait stand."""
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
    return f"The deadline {moment(deadline)} is over and still running: {'; '.join(words)}.{trouble}"


def _standing(batch_id: str, seen: Seen | None) -> str:
    if seen is None:
        return f"{batch_id}, of which nothing was seen"
    counts = f" ({seen.completed + seen.failed} of {seen.total} requests done)" if seen.total else ""
    return f"{batch_id} {seen.status} since {moment(seen.since)}{counts}"


def moment(seconds: float) -> str:
    """``2026-01-31 12:00:00 UTC``."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def duration(seconds: float) -> str:
    """In words as coarse as an estimate: ``40 s``, ``14 min``, ``2 h``, ``3 days``."""
    for limit, unit, name in ((90, 1, "s"), (5_400, 60, "min"), (129_600, 3_600, "h")):
        if seconds < limit:
            return f"{max(round(seconds / unit), 1)} {name}"
    return f"{round(seconds / 86_400)} days"
