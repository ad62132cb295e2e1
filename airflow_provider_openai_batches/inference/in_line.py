"""The batches of one model in the list: what is in line, whose it is, and what finished batches had."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_openai_batches.idempotency import keys

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch

LIMIT_EXCEEDED = "token_limit_exceeded"
# A task whose newest batch has ended counts as about to submit another one for so many poll intervals; one
# whose newest batch was rejected, for so many seconds.
GOES_ON_WITHIN = 6
WAITS_AT_MOST = 3 * 3_600.0

Estimated: TypeAlias = "tuple[float, Batch]"
# DAG and task: runs of the same task ask similar things.
Kind: TypeAlias = "tuple[str | None, str | None]"
# The least and the most tokens that there may be for each that was estimated: where a task's own batches show
# it (images count more than their URLs, and less than their bytes), and where those of others do.
OWN_RATIOS, OTHER_RATIOS = (0.001, 100.0), (0.25, 4.0)


class InLine:
    """
    The batches of one model in the list, with their estimates.

    ``tokens`` are in line, and ``own`` of them are the task's own; ``proven`` is the most that was in line at
    one time; ``tasks`` are in line or wait, and some ``are_waiting``; this one ``is_in_vain``, because others
    always had the room.

    :param batches: newest first.
    :param soon: a task whose newest batch ended after this time is about to go on.
    :param idle_since: when the task's own newest batch was rejected, or ended; None: it had none.
    """

    def __init__(
        self,
        batches: list[Estimated],
        task_key: str,
        now: float = 0.0,
        soon: float = 0.0,
        idle_since: float | None = None,
    ) -> None:
        self._ratio, self._ratios = ratio_of(batches, OTHER_RATIOS), ratios_of(batches)
        batches = [(tokens * self.ratio(kind_of(batch)), batch) for tokens, batch in batches]
        running = [(tokens, keys.task_of(batch)) for tokens, batch in batches if not batch.is_over]
        self.tokens = sum(tokens for tokens, _ in running)
        self.own = sum(tokens for tokens, task in running if task == task_key)
        self.proven = most_at_once(batches, now)
        newest: dict[str, Batch] = {}
        for _, batch in batches:
            newest.setdefault(keys.task_of(batch), batch)
        waiting = {task for task, batch in newest.items() if waits_for_room(batch, now, soon)} - {task_key}
        self.tasks = waiting | {task for _, task in running} | {task_key}
        self.are_waiting = bool(waiting)
        has_waited = idle_since is not None and now - idle_since > WAITS_AT_MOST
        self.is_in_vain = has_waited and self.tokens > 0 and not self.own

    def ratio(self, kind: Kind, measured: float = 0.0) -> float:
        """
        Return how many tokens a task's batches have for each that was estimated.

        :param measured: of the job's canary; 0: there was none.
        """
        return self._ratios.get(kind) or measured or self._ratio or 1.0

    def has_room(self, limit: int, taken: float, tokens: float) -> bool:
        """
        Whether the task may have so many tokens more in line.

        :param taken: what it is going to have in line besides.
        """
        own = self.own + taken
        is_fair = not self.are_waiting or not own or own + tokens <= limit / len(self.tasks)
        return is_fair and self.tokens + taken + tokens <= limit


def waits_for_room(batch: Batch, now: float, soon: float) -> bool:
    """Whether the task whose newest batch this is will submit another one as soon as there is room."""
    if batch.status == "failed":
        said = any(item.code == LIMIT_EXCEEDED for item in batch.error_items)
        return said and (batch.created_at or 0) > now - WAITS_AT_MOST
    return batch.is_over and (batch.ended_at or 0) > soon


def kind_of(batch: Batch) -> Kind:
    origin = keys.Origin.of(batch)
    return origin.dag_id, origin.task_id


def ratios_of(batches: list[Estimated]) -> dict[Kind, float | None]:
    kinds: dict[Kind, list[Estimated]] = {}
    for tokens, batch in batches:
        kinds.setdefault(kind_of(batch), []).append((tokens, batch))
    return {kind: ratio_of(each, OWN_RATIOS) for kind, each in kinds.items()}


def ratio_of(batches: list[Estimated], bounds: tuple[float, float]) -> float | None:
    """
    Return the prompt tokens that finished batches had, divided by what they were estimated to have.

    :return: None if no batch says what it had.
    """
    asked, had, (least, most) = 0.0, 0.0, bounds
    for tokens, batch in batches:
        counts, usage = batch.counts, batch.usage
        if tokens and usage and (usage.input_tokens or 0) > 0 and counts.completed == counts.total > 0:
            asked, had = asked + tokens, had + min(usage.input_tokens or 0, tokens * most)
    return max(had / asked, least) if asked else None


def most_at_once(batches: list[Estimated], now: float) -> float:
    """Return how many tokens of batches that were accepted were in line at one time."""
    steps = []
    for tokens, batch in batches:
        if batch.created_at and batch.status not in {"failed", "validating"}:
            steps += [(batch.created_at, tokens), (batch.ended_at or now, -tokens)]
    in_line = most = 0.0
    for _, change in sorted(steps):
        in_line += change
        most = max(most, in_line)
    return most
