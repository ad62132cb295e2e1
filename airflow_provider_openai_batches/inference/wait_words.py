"""What a job waits for, in words: the reasons that the schedule, the budget and the purse may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from airflow_provider_openai_batches.inference.records import NOT_SUBMITTED
from airflow_provider_openai_batches.polling.progress import moment

if TYPE_CHECKING:
    from airflow_provider_openai_batches.inference.data.job import Job, Shard
    from airflow_provider_openai_batches.inference.job_context import JobContext
    from airflow_provider_openai_batches.inference.schedule import Schedule, WaitFor
    from airflow_provider_openai_batches.inference.settings import Then

# What keeps batches from being submitted: nothing; the limit of tokens in line; how many there may be, or
# when; the money.
Held: TypeAlias = Literal["", "tokens", "room", "cost"]
SHOWN_TROUBLE = 200
_THEN: dict[str, str] = {
    "live": "then the rest is asked live",
    "fail": "then the task fails if rows have no answer",
    "keep": "then rows without an answer get none",
}


def held_by(waiting: list[Shard], fitting: list[Shard], room: int, submitted: list[Shard]) -> Held:
    """
    Return what keeps some shards from being submitted now.

    :param waiting: all that have no batch.
    :param fitting: those of them that the limit of tokens has room for.
    :param room: how many may be submitted.
    :param submitted: those that are.
    """
    if len(submitted) < min(len(fitting), room):
        return "cost"
    if room < len(fitting):
        return "room"
    return "tokens" if len(fitting) < len(waiting) else ""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of a job that waits. Times are Unix seconds.

    :param batches: all batches of the job.
    :param running: those that are waited for.
    :param waiting: those that are still to be submitted, which are ``held`` for a reason in words.
    :param rejected: those that the service refused, so that the job fails once the others have ended.
    :param again: how many rows are asked again in the batches that run, in the ``round`` with this number.
    :param open_rows: how many rows may be asked again at the time ``ripe_at``; 0: it is not known.
    :param answer_time: when every row is to have its answer, and what happens ``then``.
    :param why_due: why no batch is waited for any more but those that are about to end.
    :param trouble: why the service cannot be used until the time ``next_try``.
    """

    batches: int
    running: int
    waiting: int = 0
    held: str = ""
    rejected: int = 0
    again: int = 0
    round: int = 0
    open_rows: int = 0
    ripe_at: float | None = None
    answer_time: float | None = None
    then: Then = "live"
    why_due: str = ""
    trouble: str = ""
    next_try: float = 0


def in_words(known: Waiting) -> str:
    """Say what a job waits for, such as ``3 of 12 batches wait: 9 run, and max_active_batches is 9``."""
    if known.trouble:
        trouble = known.trouble[:SHOWN_TROUBLE]
        return f"the service is not available; the next try is at {moment(known.next_try)} ({trouble})"
    if known.why_due:
        return f"{_of(known.running, known.batches, 'has', 'have')} still to end: {known.why_due}"
    return "; ".join(_reasons(known))


def _reasons(known: Waiting) -> list[str]:
    said = []
    if known.waiting:
        said.append(f"{_of(known.waiting, known.batches, 'waits', 'wait')}: {known.held}")
    elif known.running:
        said.append(_of(known.running, known.batches, "runs", "run"))
    if known.again:
        said.append(f"{_rows(known.again)} asked again, round {known.round}")
    if known.rejected:
        refused = _of(known.rejected, known.batches, "was rejected", "were rejected")
        said.append(f"{refused}, and the task fails when the others have ended")
    if known.ripe_at is not None:
        rows = f"up to {_rows(known.open_rows)}" if known.open_rows else "rows without an answer are"
        said.append(f"{rows} asked again at {moment(known.ripe_at)}")
    if known.answer_time is not None:
        said.append(f"the deadline is at {moment(known.answer_time)}, {_THEN[known.then]}")
    return said


def _of(count: int, total: int, verb: str, verbs: str) -> str:
    """``1 batch runs``, ``12 batches run``, ``1 of 12 batches runs``."""
    counted = f"{total:,} batch{'' if total == 1 else 'es'}"
    return f"{counted if count == total else f'{count:,} of {counted}'} {verb if count == 1 else verbs}"


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def waiting_of(context: JobContext, job: Job, schedule: Schedule, held: Held, wait: WaitFor) -> Waiting:
    """
    Return what is known of a job that waits.

    :param held: what kept the last submission from being complete.
    """
    records, running = context.records, [shard for shard in job.shards if _is_active(context, shard.index)]
    waiting = records.without_batch(job.shards)
    refused = [record for record in records.rejected if record.error and record.error.code != NOT_SUBMITTED]
    left = [record.unfinished for record in records.left_open]
    may_ask_again = bool(context.settings.max_rounds) and not schedule.is_due(job)
    return Waiting(
        batches=len(job.shards) - sum(record.is_given_up for record in records.by_shard.values()),
        running=len(wait.batch_ids),
        waiting=len(waiting),
        held=_why_held(context, job, schedule, held) if waiting else "",
        rejected=len(refused),
        again=sum(shard.asked_again for shard in running),
        round=max((shard.said_round for shard in running), default=0),
        open_rows=0 if min(left, default=0) < 0 else sum(left),
        ripe_at=schedule.ripe_at(job) if may_ask_again else None,
        answer_time=schedule.answer_time,
        then=context.settings.then,
        why_due=schedule.why_due if schedule.is_due(job) else "",
        trouble=schedule.trouble,
        next_try=records.not_before,
    )


def _is_active(context: JobContext, index: int) -> bool:
    return context.records.of(index).is_active


def _why_held(context: JobContext, job: Job, schedule: Schedule, held: Held) -> str:
    """Say why batches are still to be submitted."""
    if held == "cost":
        return f"they may cost more than what is left of max_cost={context.settings.max_cost:g}"
    if held == "tokens":
        return _why_full(context, job)
    if held == "room":
        return schedule.why_no_room()
    return "they are sent next"


def _why_full(context: JobContext, job: Job) -> str:
    """Say why no more tokens may be in line."""
    budget, waiting = context.budget, context.records.without_batch(job.shards)
    model = waiting[0].model
    limit = budget.limit(model)
    if limit is None:
        return "the service has to take the others first, because its limit of tokens in line is not known"
    is_any_over = any(record.ended_at for record in context.records.by_shard.values())
    if not is_any_over and [record.status for record in context.records.active] == ["validating"]:
        return "the first one goes alone, to see what else is in line"
    others = budget.others(model)
    shared = (
        f"shared with {others:,} other task{'' if others == 1 else 's'} that wait for room, or are in line"
    )
    return f"the account's limit of {limit:,} tokens is {shared if others else 'full'}"
