"""What the page says of the costs of each day, for a chart."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import made_by

from airflow_provider_openai_batches.api.models import Batch, BatchRequestCounts, BatchUsage
from airflow_provider_openai_batches.plugin import costs
from airflow_provider_openai_batches.plugin.cost_days import MAX_SERIES, by_day
from airflow_provider_openai_batches.pricing.prices import Prices
from airflow_provider_openai_batches.pricing.rates import Rates

NOW = datetime(2026, 11, 25, 15, tzinfo=UTC).timestamp()
DAY = 86_400
PRICES = Prices({model: Rates(input=1.0, output=1.0) for model in "ab"})


def batch(days: float | None, millions: float = 1, *, dag: str = "one", model: str = "a") -> Batch:
    """A batch of so many days ago; a million tokens cost half a dollar."""
    return Batch(
        id="b",
        status="completed",
        model=model,
        created_at=None if days is None else int(NOW - days * DAY),
        request_counts=BatchRequestCounts(10, 9, 1),
        usage=BatchUsage(input_tokens=int(millions * 10**6)),
        metadata=made_by(dag, "run", "ask"),
    )


def shown(*batches: Batch, by: str = "dag", days: float = 2) -> dict[str, Any]:
    return by_day(batches, by, PRICES, NOW - days * DAY, NOW)


def test_days_without_gaps() -> None:
    """Also those on which nothing was asked; a day is one of UTC."""
    found = shown(batch(0), batch(0.1), batch(2))
    assert found == {
        "days": ["2026-11-23", "2026-11-24", "2026-11-25"],
        "series": [{"name": "one", "usd": [0.5, 0, 1.0], "requests": [9, 0, 18]}],
        "is_known": True,
    }


def test_nothing() -> None:
    assert shown(days=0.1) == {"days": ["2026-11-25"], "series": [], "is_known": True}


def test_models() -> None:
    """The one that costs most comes first; without a price that of more requests."""
    found = shown(batch(0, 3, model="b"), batch(0), batch(0, model="no price"), by="model")
    assert [(line["name"], line["usd"][-1]) for line in found["series"]] == [
        ("b", 1.5),
        ("a", 0.5),
        ("no price", 0),
    ]
    assert not found["is_known"]


def test_batches_of_no_dag() -> None:
    """They have no name, and are not what is called the others."""
    without = Batch(id="b", status="completed", model="a", created_at=int(NOW), usage=BatchUsage(10**6))
    assert shown(without)["series"] == [{"name": None, "usd": [0, 0, 0.5], "requests": [0, 0, 0]}]


def test_the_others() -> None:
    """The largest have lines of their own, and all others one."""
    found = shown(*(batch(n % 3, n, dag=f"dag_{n}") for n in range(1, 12)))
    assert [line["name"] for line in found["series"]] == [
        *(f"dag_{n}" for n in range(11, 11 - MAX_SERIES, -1)),
        None,
    ]
    others = found["series"][-1]
    assert (others["others"], others["usd"]) == (True, [1.0, 0.5, 1.5])


def test_a_time_that_is_no_day_of_the_chart() -> None:
    """A service whose clock is ahead; a batch that does not say when it was created is missing."""
    assert shown(batch(-1.5))["series"][0]["usd"] == [0, 0, 0.5]
    assert shown(batch(None), batch(0)) == {**shown(batch(0)), "is_known": False}


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(0, 9), st.sampled_from("abcdefghijklm"), st.sampled_from("ab"))
    ),
    st.sampled_from(["dag", "model"]),
)
def test_the_lines_add_up_to_the_sum(given_: list[tuple[float, int, str, str]], by: str) -> None:
    """To what the sum of the same batches says."""
    batches = [batch(days, millions, dag=dag, model=model) for days, millions, dag, model in given_]
    total = costs.summed(batches, by, PRICES)["total"]
    lines = shown(*batches, by=by)["series"]
    assert math.isclose(sum(sum(line["usd"]) for line in lines), total["cost_usd"], abs_tol=1e-6)
    assert sum(sum(line["requests"]) for line in lines) == total["requests"]["completed"]
    assert len(lines) <= MAX_SERIES + 1


@pytest.mark.parametrize("hours", [1, 24, 720])
def test_as_many_days_as_the_time_has(hours: int) -> None:
    found = shown(days=hours / 24)
    assert found["days"][-1] == "2026-11-25"
    assert len(found["days"]) == {1: 1, 24: 2, 720: 31}[hours]
