"""What given tokens cost, worked out by hand; and that no answer of a service makes a sum wrong."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_openai_batches.api.models import Batch, read
from airflow_provider_openai_batches.api.usage import Usage, usage_of
from airflow_provider_openai_batches.pricing.cost import Bill, Cost, amount, dollars, in_words
from airflow_provider_openai_batches.pricing.prices import Prices
from airflow_provider_openai_batches.pricing.rates import ModelPrice, Rates

# gpt-5-mini, gpt-4o, and gpt-6-sol, which has prices for cache writes and for prompts over 272,000 tokens:
# https://developers.openai.com/api/docs/pricing
MINI = Rates(input=0.25, cached_input=0.025, output=2.0)
FOUR_O = Rates(input=2.5, cached_input=1.25, output=10.0)
SOL = ModelPrice(
    rates=Rates(input=2.0, cache_write=2.5, cached_input=0.2, output=10.0),
    long_rates=Rates(input=4.0, cache_write=5.0, cached_input=0.4, output=15.0),
    long_from=272_000,
)
PRICES = Prices({"mini": MINI, "4o": FOUR_O}, listed={"sol": SOL}.get)


def used(given: int = 0, made: int = 0, *, cached: int = 0, written: int = 0, total: int = 0) -> Usage:
    return Usage(given, cached, made, 0, total or given + made, written)


@pytest.mark.parametrize(
    ("rates", "usage", "usd"),
    [
        # 1,000,000 x 0.25 + 500,000 x 2
        (MINI, used(1_000_000, 500_000), 1.25),
        # 600,000 x 0.25 + 400,000 x 0.025
        (MINI, used(1_000_000, cached=400_000), 0.16),
        # 800,000 x 2.5 + 200,000 x 1.25 + 100,000 x 10
        (FOUR_O, used(1_000_000, 100_000, cached=200_000), 3.25),
        # 500,000 x 2 + 300,000 x 2.5 + 200,000 x 0.2
        (SOL.rates, used(1_000_000, cached=200_000, written=300_000), 1.79),
        # A service counts 300 tokens of thought in the total alone: 1,000 x 0.25 + 500 x 2
        (MINI, used(1_000, 200, total=1_500), 0.00125),
        # Without a price of their own, cached tokens and written ones are input.
        (Rates(input=1.0, output=1.0), used(1_000_000, cached=500_000, written=500_000), 1.0),
        # More cached than there is: no more than the input is taken for it.
        (MINI, used(1_000_000, cached=5_000_000, written=5_000_000), 0.025),
        (SOL.rates, used(1_000_000, written=5_000_000), 2.5),
        (MINI, used(), 0.0),
    ],
)
def test_tokens_at_their_rates(rates: Rates, usage: Usage, usd: float) -> None:
    assert rates.cost(usage) == pytest.approx(usd, rel=1e-12)


def test_reasoning_tokens_are_paid_once() -> None:
    """Most services have them among the output tokens: 200 tokens, of which 150 are thought, cost as 200."""
    body = {
        "prompt_tokens": 1_000,
        "completion_tokens": 200,
        "completion_tokens_details": {"reasoning_tokens": 150},
        "total_tokens": 1_200,
    }
    usage = usage_of(json.dumps({"usage": body}).encode())  # type: ignore[arg-type]
    assert usage is not None
    assert MINI.cost(usage) == pytest.approx((1_000 * 0.25 + 200 * 2) / 1e6)


def test_a_bill_by_model_and_way() -> None:
    """In batches at half the price: 4o 0.5 x 2.5; mini live 0.25, and in batches 0.125."""
    bill = Bill(PRICES)
    bill.meter("4o", "batch").add(used(1_000_000))
    bill.meter("mini", "live").add(used(1_000_000))
    bill.meter("mini", "batch").add(used(1_000_000))
    cost = bill.cost()
    assert [(item.model, item.way, item.usd) for item in cost.items] == [
        ("4o", "batch", 1.25),
        ("mini", "batch", 0.125),
        ("mini", "live", 0.25),
    ]
    assert (cost.usd, cost.is_known, str(cost)) == (1.625, True, "$1.62")
    assert bill.usage("live").input_tokens == 1_000_000
    assert bill.usage().input_tokens == 3_000_000


def test_long_prompts_are_told_by_each_request() -> None:
    """One of 300,000 and ten of 100,000: 0.3 x 4 + 1.0 x 2, live."""
    bill = Bill(PRICES)
    meter = bill.meter("sol", "live")
    meter.add(used(300_000))
    for _ in range(10):
        meter.add(used(100_000))
    assert bill.cost().usd == pytest.approx(1.2 + 2.0)


def test_long_prompts_of_a_batch_are_told_by_their_average() -> None:
    """Ten of 300,000 on average are long, and thirty of 100,000 are not, although they are as many tokens."""
    for requests, usd in ((10, 3 * 4.0), (30, 3 * 2.0)):
        bill = Bill(PRICES)
        bill.meter("sol", "live").add_several(used(3_000_000), requests)
        assert bill.cost().usd == pytest.approx(usd)


def test_what_has_no_price() -> None:
    """A model without one, no model, and answers that do not say how many tokens they took."""
    bill = Bill(PRICES)
    bill.meter("mini", "live").add(used(1_000_000))
    bill.meter("mini", "live").unmetered += 2
    bill.meter("other", "batch").add(used(1))
    bill.meter(None, "batch").add(used(1))
    cost = bill.cost()
    assert (cost.usd, cost.unpriced, cost.unmetered) == (0.25, ["no model named", "other"], 2)
    assert not cost.is_known
    assert str(cost) == "≥ $0.25, 2 models without a price, 2 answers without token counts"


def test_a_model_without_a_price_that_used_nothing_is_not_missed() -> None:
    """All of its requests failed, say."""
    bill = Bill(PRICES)
    bill.meter("other", "batch").add(used())
    assert bill.cost() == Cost()


def test_answers_of_a_free_model_need_no_counts() -> None:
    """Moderation reports none."""
    bill = Bill(Prices({}, listed=lambda _: ModelPrice(rates=Rates(input=0, output=0))))
    bill.meter("omni-moderation-latest", "batch").unmetered += 5
    assert bill.cost().is_known
    assert bill.cost().usd == 0


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (0, "$0.00"),
        (1234567.891, "$1,234,567.89"),
        (0.01, "$0.01"),
        (0.0042, "$0.0042"),
        (0.00012345, "$0.00012"),
        (0.0000123, "$1.2e-05"),
    ],
)
def test_dollars(usd: float, words: str) -> None:
    assert dollars(usd) == words


def test_sums_in_words() -> None:
    """The sign stands where something is missing; nothing known is not called zero."""
    assert in_words(12.4) == "$12.40"
    assert in_words(12.4, ["a", "b", "a"]) == "≥ $12.40, 2 models without a price"
    assert in_words(12.4, ["a"]) == "≥ $12.40, a without a price"
    assert in_words(0, ["a"]) == "unknown, a without a price"
    assert in_words(1, (), 1200) == "≥ $1.00, 1,200 answers without token counts"
    assert (amount(0, is_known=True), amount(0, is_known=False)) == ("$0.00", "unknown")


counts = st.integers(min_value=0, max_value=10_000)


@st.composite
def true_usages(draw: st.DrawFn) -> Usage:
    """What a service reports that counts as it says."""
    given_tokens, made, thought = draw(counts), draw(counts), draw(counts)
    cached = draw(st.integers(0, given_tokens))
    written = draw(st.integers(0, given_tokens - cached))
    return used(given_tokens, made, cached=cached, written=written, total=given_tokens + made + thought)


@settings(derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["mini", "4o", "sol"]), true_usages()), max_size=12))
def test_a_sum_of_costs_is_the_cost_of_the_sum(requests: list[tuple[str, Usage]]) -> None:
    """So it does not matter whether rows, batches or jobs are added up; below the length of a long prompt."""
    bill, each = Bill(PRICES), 0.0
    for model, usage in requests:
        bill.meter(model, "batch").add(usage)
        each += PRICES.cost(model, usage, 1, is_batch=True) or 0.0
    assert bill.cost().usd == pytest.approx(each, abs=1e-8)


hostile = st.one_of(
    st.none(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([-1, 10**400, 2**63, 2**64, 1e300, -0.5, "7", "x", True, [], {}]),
)


@st.composite
def reports(draw: st.DrawFn) -> dict[str, object]:
    names = ("input_tokens", "prompt_tokens", "output_tokens", "completion_tokens", "total_tokens")
    details = st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("cached_tokens", "cache_write_tokens", "reasoning_tokens"), hostile)
    )
    optional = dict.fromkeys(names, hostile)
    for name in ("input", "prompt", "output", "completion"):
        optional[f"{name}_tokens_details"] = st.one_of(hostile, details)
    return draw(st.fixed_dictionaries({}, optional=optional))


@settings(derandomize=True, max_examples=300)
@given(reports())
def test_whatever_a_service_reports_costs_a_number(report: dict[str, object]) -> None:
    """No cost is negative, NaN, infinite, or an error: of an answer, of a batch, and at every price."""
    try:
        of_batch = read(json.dumps({"id": "b", "usage": report}), Batch).usage
    except ValueError:  # Python writes no integers of so many digits
        return
    found = [Usage.of_batch(of_batch), usage_of(json.dumps({"usage": report}).encode())]  # type: ignore[arg-type]
    for usage in filter(None, found):
        for rates in (MINI, SOL.rates, Rates(input=0, output=0), Rates(input=1e7, output=1e7)):
            assert 0 <= rates.cost(usage) < math.inf
