"""What the batches of an account cost, by whose they are; worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_openai_batches.api.models import Batch, BatchRequestCounts, BatchUsage
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.pricing import account
from airflow_provider_openai_batches.pricing.account import AccountCosts, columns_of, cost_in_words, cost_of
from airflow_provider_openai_batches.pricing.prices import Prices
from airflow_provider_openai_batches.pricing.rates import ModelPrice, Rates

# gpt-5-mini, and gpt-5.4 with its price for prompts over 272,000 tokens:
# https://developers.openai.com/api/docs/pricing
LONG = ModelPrice(
    rates=Rates(input=2.5, cached_input=0.25, output=15.0),
    long_rates=Rates(input=5.0, cached_input=0.5, output=22.5),
    long_from=272_000,
)
MINI = ModelPrice(rates=Rates(input=0.25, cached_input=0.025, output=2.0))
PRICES = Prices({}, listed={"mini": MINI, "long": LONG}.get)


def batch(given: int | None = 1_000_000, made: int = 0, completed: int = 10, **fields: Any) -> Batch:
    """One in batches at half the price; without tokens it reports no usage."""
    usage = None if given is None else BatchUsage(input_tokens=given, output_tokens=made)
    dag, task, run = (fields.pop(name, None) for name in ("dag", "task", "run"))
    names = {"airflow_dag_id": dag, "airflow_task_id": task, "airflow_run_id": run}
    metadata = {name: value for name, value in names.items() if value} | fields.pop("metadata", {})
    counts = BatchRequestCounts(total=completed, completed=completed)
    given_fields = {"model": "mini", "status": "completed", "created_at": 1_760_000_000, **fields}
    return Batch(
        **{"id": "b", "usage": usage, "request_counts": counts, "metadata": metadata, **given_fields}
    )


def costs(by: str | list[str], *batches: Batch) -> AccountCosts:
    found = AccountCosts([by] if isinstance(by, str) else by, PRICES)
    for each in batches:
        found.add(each)
    return found


def amounts(found: AccountCosts, limit: int = 50) -> dict[Any, str]:
    groups, others = found.groups(limit)
    named: dict[Any, str] = {names[0] if len(names) == 1 else names: str(group) for names, group in groups}
    return named if others is None else {**named, "others": str(others)}


def test_a_batch() -> None:
    """A million tokens in and a half out: (0.25 + 1.00) / 2."""
    cost = cost_of(batch(made=500_000), PRICES)
    assert cost is not None
    assert cost.usd == 0.625
    assert cost_in_words(batch(made=500_000), PRICES) == "Batch b cost $0.62"


def test_the_model_in_the_metadata() -> None:
    """For services that do not say it in the batch."""
    found = cost_of(batch(model=None, metadata={"airflow_tokens": "7 mini"}), PRICES)
    assert found is not None
    assert found.usd == 0.125
    assert amounts(costs("model", batch(model=None, metadata={"airflow_tokens": "7 mini"}))) == {
        "mini": "$0.12"
    }


@pytest.mark.parametrize(("completed", "usd"), [(10, 3 * 5.0 / 2), (30, 3 * 2.5 / 2), (0, 3 * 2.5 / 2)])
def test_long_prompts(completed: int, usd: float) -> None:
    """By the average length; where the number of requests is unknown, none is long."""
    cost = cost_of(batch(3_000_000, completed=completed, model="long"), PRICES)
    assert cost is not None
    assert cost.usd == pytest.approx(usd)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (batch(model="x"), "The cost of batch b is unknown: x has no price; enter them in the "),
        (batch(model=None), "The cost of batch b is unknown: no model named has no price; enter"),
        (batch(None), "Batch b does not say how many tokens it used: its cost is unknown"),
        (batch(None, request_counts=None), "Batch b does not say how many tokens it used"),
        (batch(None, completed=0), "Batch b cost $0.00"),
        (batch(0, model="x"), "Batch b cost $0.00"),
    ],
)
def test_batches_of_unknown_cost(given: Batch, words: str) -> None:
    """A batch without any answer cost nothing, whatever its model."""
    assert cost_in_words(given, PRICES).startswith(words)


def test_a_running_batch_has_not_said_yet() -> None:
    assert cost_of(batch(None, completed=0, status="in_progress"), PRICES) is None


def test_by_dag_task_and_run() -> None:
    """Tasks and runs have their names within a DAG, and batches of nobody are a group."""
    batches = [
        batch(dag="a", task="t", run="r"),
        batch(dag="a", task="u", run="r"),
        batch(dag="b", task="t", run="r"),
        batch(8_000_000),
    ]
    assert amounts(costs("dag", *batches)) == {None: "$1.00", "a": "$0.25", "b": "$0.12"}
    assert set(amounts(costs("task", *batches))) == {("a", "t"), ("a", "u"), ("b", "t"), (None, None)}
    assert set(amounts(costs("run", *batches))) == {("a", "r"), ("b", "r"), (None, None)}
    dear = batch(1_000_000, dag="c", model="long")  # 1,000,000 x 2.5 / 2 is more than 8,000,000 x 0.25 / 2
    assert list(amounts(costs("dag", *batches, dear)))[:2] == ["c", None]


def test_by_a_key_of_the_metadata_and_several() -> None:
    """Also with commas, and each column once."""
    batches = [batch(metadata={"team": "red"}), batch(metadata={"team": "red"}, model="long"), batch()]
    assert amounts(costs("team", *batches)) == {"red": "$1.38", None: "$0.12"}
    assert set(amounts(costs(["team,model"], *batches))) == {("red", "mini"), ("red", "long"), (None, "mini")}
    assert columns_of(["task", "dag", "team , model"]) == ["dag_id", "task_id", "team", "model"]


def test_by_day_and_status() -> None:
    """Days are those of UTC, and the newest is the first; 1,760,000,000 is 2025-10-09 08:53:20."""
    days = [batch(), batch(9_000_000, created_at=1_760_000_000 - 9 * 3600), batch(created_at=None)]
    assert list(amounts(costs("day", *days)).items()) == [
        ("2025-10-09", "$0.12"),
        ("2025-10-08", "$1.12"),
        (None, "$0.12"),
    ]
    assert amounts(costs("status", batch(), batch(status="expired"))) == {
        "completed": "$0.12",
        "expired": "$0.12",
    }


@pytest.mark.parametrize("created_at", [0, -(10**17), 10**30])
def test_a_time_that_is_no_day(created_at: int) -> None:
    """One odd batch does not end the sum."""
    assert amounts(costs("day", batch(created_at=created_at)))[None] == "$0.12"


@pytest.mark.parametrize("by", [[], [""], ["dag,"], [" , "]])
def test_an_empty_word(by: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="An empty word groups nothing"):
        columns_of(by)


def test_what_is_missing_in_a_sum() -> None:
    """Models without a price, batches that do not say what they used, and those that run."""
    total = costs(
        "dag", batch(), batch(model="x"), batch(None), batch(None, completed=0, status="in_progress")
    ).total
    assert (total.batches, total.running, total.unmetered, total.unpriced) == (4, 1, 1, {"x"})
    assert str(total) == "≥ $0.12"
    assert total.to_dict() == {
        "batches": 4,
        "running": 1,
        "without_usage": 1,
        "requests": {"completed": 30, "failed": 0},
        "tokens": {"input": 2_000_000, "cached": 0, "output": 0, "total": 2_000_000},
        "cost_usd": 0.125,
        "is_known": False,
        "models_without_price": ["x"],
    }
    running = costs("dag", batch(), batch(None, completed=0, status="in_progress")).total
    assert str(running) == "$0.12"


def test_others_are_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the limit, and those for which there was no room; the total has them all."""
    batches = [batch(number * 1_000_000, metadata={"n": str(number)}) for number in (1, 2, 3, 4, 2)]
    assert amounts(costs("n", *batches), 2) == {"4": "$0.50", "2": "$0.50", "others": "$0.50"}
    monkeypatch.setattr(account, "MAX_GROUPS", 2)
    found = costs("n", *batches)
    assert amounts(found) == {"2": "$0.50", "1": "$0.12", "others": "$0.88"}
    assert (found.total.batches, str(found.total)) == (5, "$1.50")
