"""
What batches cost, one or all of an account: the list is the ledger, and metadata says whose a batch is.

A batch reports the sum of its tokens: its prompts have the price for long ones if their average is long.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.idempotency.keys import Origin, model_of
from airflow_provider_openai_batches.pricing.cost import Bill, Cost, amount
from airflow_provider_openai_batches.pricing.prices import Prices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch

# An account may have a run, or a value of metadata, for each batch. So many groups are told apart at most.
MAX_GROUPS = 10_000
_DAY = "day"


def cost_of(batch: Batch, prices: Prices) -> Cost | None:
    """Return what a batch has cost so far; None if it does not say what it used."""
    usage, counts = Usage.of_batch(batch.usage), batch.request_counts
    if usage is None:
        return Cost() if batch.is_over and counts is not None and not counts.completed else None
    bill = Bill(prices)
    # Without a number of requests none of them counts as long.
    requests = batch.counts.completed or batch.counts.total or usage.input_tokens
    bill.meter(model_of(batch), "batch").add_several(usage, requests)
    return bill.cost()


def cost_in_words(batch: Batch, prices: Prices) -> str:
    """Say in a sentence what a batch that ended has cost."""
    cost = cost_of(batch, prices)
    if cost is None:
        return f"Batch {batch.id} does not say how many tokens it used: its cost is unknown"
    if cost.unpriced:
        return f"The cost of batch {batch.id} is unknown: {cost.unpriced[0]} has no price; {prices.hint}"
    return f"Batch {batch.id} cost {cost}"


def say_costs(batches: Iterable[Batch], config: ClientConfig, say: Callable[[str, str], None]) -> Prices:
    """Say what batches that ended have cost, and return the prices of their connection."""
    prices = Prices.of(config)
    for batch in batches:
        say("%s", cost_in_words(batch, prices))
    return prices


def _day(batch: Batch) -> str | None:
    try:
        return datetime.fromtimestamp(batch.created_at, UTC).date().isoformat() if batch.created_at else None
    except (ValueError, OverflowError, OSError):  # no time that anybody lives in
        return None


_COLUMNS: dict[str, Callable[[Batch], str | None]] = {
    "dag_id": lambda batch: Origin.of(batch).dag_id,
    "task_id": lambda batch: Origin.of(batch).task_id,
    "run_id": lambda batch: Origin.of(batch).run_id,
    "model": model_of,
    _DAY: _day,
    "status": lambda batch: batch.status,
}
# A task and a run have their names within a DAG.
_WORDS = {"dag": ("dag_id",), "task": ("dag_id", "task_id"), "run": ("dag_id", "run_id")}


def columns_of(by: Iterable[str]) -> list[str]:
    """
    Return the columns that batches are grouped by.

    :param by: ``dag``, ``task``, ``run``, ``model``, ``day`` (in UTC), ``status``, or keys of metadata; each
        may hold several, with commas between them.
    :raises InvalidInputError: if one of them is empty.
    """
    words = [word.strip() for each in by for word in each.split(",")]
    if not all(words) or not words:
        raise InvalidInputError(
            "An empty word groups nothing. Take dag, task, run, model, day, status, or a key of metadata."
        )
    return list(dict.fromkeys(column for word in words for column in _WORDS.get(word, (word,))))


class CostSum(msgspec.Struct):
    """
    Several batches.

    :param unmetered: how many of them have answers and do not say how many tokens they used.
    :param usd: the batches whose price is known, in US dollars.
    :param unpriced: the models without a price.
    """

    batches: int = 0
    running: int = 0
    unmetered: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage = msgspec.field(default_factory=Usage)
    usd: float = 0.0
    unpriced: set[str] = msgspec.field(default_factory=set)

    @property
    def is_known(self) -> bool:
        """Whether nothing is missing in the sum, apart from what running batches are going to cost."""
        return not (self.unpriced or self.unmetered)

    def __str__(self) -> str:
        return amount(self.usd, is_known=self.is_known)

    def add(self, batch: Batch, cost: Cost | None) -> None:
        self.batches += 1
        self.running += not batch.is_over
        self.completed += batch.counts.completed
        self.failed += batch.counts.failed
        if cost is None:
            self.unmetered += batch.is_over
            return
        self.usd += cost.usd
        self.unpriced.update(cost.unpriced)
        for item in cost.items:
            self.usage.add(item.usage)

    def take(self, other: CostSum) -> None:
        """Add the batches of another sum."""
        for name in ("batches", "running", "unmetered", "completed", "failed", "usd"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.usage.add(other.usage)
        self.unpriced |= other.unpriced

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values; ``cost_usd`` is without what ``is_known`` says is missing."""
        usage = self.usage
        return {
            "batches": self.batches,
            "running": self.running,
            "without_usage": self.unmetered,
            "requests": {"completed": self.completed, "failed": self.failed},
            "tokens": {
                "input": usage.input_tokens,
                "cached": usage.cached_tokens,
                "output": usage.output_tokens,
                "total": usage.total_tokens,
            },
            "cost_usd": round(self.usd, 9),
            "is_known": self.is_known,
            "models_without_price": sorted(self.unpriced),
        }


class AccountCosts:
    """
    Adds up the batches of an account.

    :param by: see :func:`columns_of`.
    """

    def __init__(self, by: Iterable[str], prices: Prices) -> None:
        self.columns = columns_of(by)
        self.total = CostSum()
        self._prices = prices
        self._others = CostSum()
        self._groups: dict[tuple[str | None, ...], CostSum] = {}

    def add(self, batch: Batch) -> None:
        cost = cost_of(batch, self._prices)
        metadata = batch.metadata or {}
        key = tuple(
            _COLUMNS[column](batch) if column in _COLUMNS else metadata.get(column) or None
            for column in self.columns
        )
        group = self._groups.get(key)
        if group is None:
            is_room = len(self._groups) < MAX_GROUPS
            group = self._groups.setdefault(key, CostSum()) if is_room else self._others
        group.add(batch, cost)
        self.total.add(batch, cost)

    def groups(self, limit: int) -> tuple[list[tuple[tuple[str | None, ...], CostSum]], CostSum | None]:
        """
        Return the groups that cost most, or the newest days, and the sum of all others, if there are any.

        :param limit: how many groups at most.
        """

        def rank(named: tuple[tuple[str | None, ...], CostSum]) -> tuple[object, ...]:
            names, group = named
            day = (names[0] or "") if self.columns[0] == _DAY else ""
            return day, group.usd, group.usage.total_tokens, group.batches

        ranked = sorted(self._groups.items(), key=rank, reverse=True)
        others = CostSum()
        for rest in (self._others, *(group for _, group in ranked[limit:])):
            others.take(rest)
        return ranked[:limit], others if others.batches else None
