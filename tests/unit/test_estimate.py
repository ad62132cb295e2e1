"""What requests are going to cost, and what that is based on; worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_openai_batches.pricing.estimate import Load, estimate
from airflow_provider_openai_batches.pricing.prices import Prices
from airflow_provider_openai_batches.pricing.rates import ModelPrice, Rates

if TYPE_CHECKING:
    from airflow_provider_openai_batches.pricing.cost import Way

# gpt-5-mini: https://developers.openai.com/api/docs/pricing
PRICES = Prices({"mini": Rates(input=0.25, cached_input=0.025, output=2.0)})


def load(
    model: str | None = "mini", most: int | None = 500_000, requests: int = 1_000, way: Way = "live"
) -> Load:
    return Load(model=model, way=way, requests=requests, input_tokens=1_000_000, most_output_tokens=most)


def test_the_most_that_the_requests_allow() -> None:
    """A million in and half a million out: 0.25 + 1.00 live, half of it in batches."""
    live = estimate([load()], PRICES)
    assert (live.cost.usd, live.basis, live.is_known) == (1.25, "most", True)
    assert str(live) == (
        "about 1,000,000 input tokens and 500,000 output tokens (the most that the requests allow): $1.25"
    )
    assert estimate([load(way="batch")], PRICES).cost.usd == 0.625


def test_what_was_measured_comes_first() -> None:
    """250.4 output tokens for each of 1,000 requests: 0.25 + 0.5008."""
    found = estimate([load()], PRICES, per_request=250.4, basis="canary")
    assert (found.output_tokens, found.basis) == (250_400, "canary")
    assert found.cost.usd == pytest.approx(0.7508)
    assert "as many for each row as the canary's rows had" in str(found)


def test_what_was_said_on_the_command_line() -> None:
    """It may also be none at all."""
    found = estimate([load(most=None)], PRICES, per_request=0, basis="given")
    assert (found.output_tokens, found.cost.usd, found.basis, found.is_known) == (0, 0.25, "given", True)


def test_nobody_knows_the_output() -> None:
    """The input alone is a lower bound, and the estimate is not known."""
    found = estimate([load(), load(most=None)], PRICES)
    assert (found.output_tokens, found.basis, found.is_known) == (None, "unknown", False)
    assert str(found) == "about 2,000,000 input tokens, and an unknown number of output tokens: ≥ $1.50"


def test_requests_without_output() -> None:
    """Embeddings have none, whatever other requests had."""
    found = estimate([load(most=0)], PRICES, per_request=100, basis="earlier")
    assert (found.output_tokens, found.cost.usd) == (0, 0.25)
    assert "0 output tokens: $0.25" in str(found)


def test_models_without_a_price() -> None:
    """They are named, and what is known is a lower bound."""
    found = estimate([load(), load("other"), load(None)], PRICES)
    assert (found.cost.usd, found.cost.unpriced) == (1.25, ["no model named", "other"])
    assert not found.is_known
    assert str(found).endswith(": ≥ $1.25, 2 models without a price")
    assert str(estimate([load("other", None)], PRICES)).endswith("unknown, other without a price")


def test_nothing_to_ask() -> None:
    assert estimate([], PRICES).cost.usd == 0


def test_long_prompts_have_their_own_price() -> None:
    """As in the bill, their average says whether they are long: 600,000 x 4 for two, and x 2 for three."""
    sol = ModelPrice(
        rates=Rates(input=2.0, output=10.0), long_rates=Rates(input=4.0, output=15.0), long_from=272_000
    )
    prices = Prices({}, listed={"sol": sol}.get)
    for requests, usd in ((2, 2.4), (3, 1.2)):
        load = Load(model="sol", way="live", requests=requests, input_tokens=600_000, most_output_tokens=0)
        assert estimate([load], prices).cost.usd == pytest.approx(usd)
