"""What the batches of each day cost, for a chart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.pricing.account import MAX_GROUPS, AccountCosts, CostSum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.pricing.prices import Prices

# How many lines a chart has, besides the one of all others.
MAX_SERIES = 8


def by_day(batches: Iterable[Batch], by: str, prices: Prices, since: float, until: float) -> dict[str, Any]:
    """
    Return the costs and completed requests of each day (in UTC), as JSON: the names that cost most first.

    :param by: a word of :func:`~airflow_provider_openai_batches.pricing.account.columns_of` for one column.
    """
    costs = AccountCosts(["day", by], prices)
    for batch in batches:
        costs.add(batch)
    days = _days(since, until)
    names: dict[str | None, dict[str, CostSum]] = {}
    undated = 0
    groups, beyond = costs.groups(MAX_GROUPS)
    for (day, name), group in groups:
        if day is None:
            undated += group.batches
            continue
        # The clock of the service may be ahead.
        names.setdefault(name, {}).setdefault(min(max(day, days[0]), days[-1]), CostSum()).take(group)
    ranked = sorted(names.items(), key=lambda item: _rank(item[1]), reverse=True)
    series = [{"name": name, **_line(of_days, days)} for name, of_days in ranked[:MAX_SERIES]]
    if others := [of_days for _, of_days in ranked[MAX_SERIES:]]:
        series.append({"name": None, "others": True, **_line(_together(others), days)})
    return {"days": days, "series": series, "is_known": costs.total.is_known and not undated and not beyond}


def _days(since: float, until: float) -> list[str]:
    first, last = (datetime.fromtimestamp(time, UTC).date() for time in (since, until))
    return [(first + timedelta(number)).isoformat() for number in range((last - first).days + 1)]


def _rank(of_days: dict[str, CostSum]) -> tuple[float, int, int]:
    sums = of_days.values()
    return sum(each.usd for each in sums), sum(each.completed for each in sums), sum(e.batches for e in sums)


def _together(others: Iterable[dict[str, CostSum]]) -> dict[str, CostSum]:
    total: dict[str, CostSum] = {}
    for of_days in others:
        for day, group in of_days.items():
            total.setdefault(day, CostSum()).take(group)
    return total


def _line(of_days: dict[str, CostSum], days: list[str]) -> dict[str, Any]:
    groups = [of_days.get(day, CostSum()) for day in days]
    return {
        "usd": [round(group.usd, 9) for group in groups],
        "requests": [group.completed for group in groups],
    }
