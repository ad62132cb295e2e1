"""
What models cost, against OpenAI's published prices: https://developers.openai.com/api/docs/pricing

The figures are US dollars for a million tokens, as the package genai-prices has them.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest

from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.pricing import list_prices
from airflow_provider_openai_batches.pricing.list_prices import list_price
from airflow_provider_openai_batches.pricing.prices import NO_PRICES, Prices
from airflow_provider_openai_batches.pricing.rates import ModelPrice, Rates

pytest.importorskip("genai_prices")

OPENAI = "https://api.openai.com/v1"
MINI = {"input": 1.0, "output": 3.0}


def prices(base_url: str = OPENAI, **fields: Any) -> Prices:
    return Prices.of(ClientConfig(base_url=base_url, api_key="k", headers={}, **fields))


# input, cached input, output
@pytest.mark.parametrize(
    ("model", "rates"),
    [
        ("gpt-5-mini", (0.25, 0.025, 2.0)),
        ("gpt-5-mini-2025-08-07", (0.25, 0.025, 2.0)),
        ("gpt-4o", (2.5, 1.25, 10.0)),
        ("gpt-4o-2024-05-13", (5.0, None, 15.0)),  # a snapshot with a price of its own
        ("text-embedding-3-small", (0.02, None, 0.0)),
        ("omni-moderation-latest", (0.0, None, 0.0)),
    ],
)
def test_list_prices(model: str, rates: tuple[float, float | None, float]) -> None:
    """A snapshot has its own price, or that of its model; moderation is free; embeddings have no output."""
    given, cached, made = rates
    assert list_price(model) == ModelPrice(rates=Rates(input=given, cached_input=cached, output=made))


def test_a_prompt_over_272_000_tokens_has_a_price_of_its_own() -> None:
    """gpt-5.4: 2.50, 0.25 and 15; above that length 5, 0.50 and 22.50, for all tokens of the request."""
    price = list_price("gpt-5.4")
    assert price is not None
    assert price.rates_of(272_000) == Rates(input=2.5, cached_input=0.25, output=15.0)
    assert price.rates_of(272_001) == Rates(input=5.0, cached_input=0.5, output=22.5)


def test_what_is_written_to_the_cache_has_a_price_of_its_own() -> None:
    """gpt-6-sol: 2 for input, 2.50 for what is written to the cache, 0.20 for what is read there, 10."""
    price = list_price("gpt-6-sol")
    assert price is not None
    assert price.rates == Rates(input=2.0, cache_write=2.5, cached_input=0.2, output=10.0)
    assert price.long_rates == Rates(input=4.0, cache_write=5.0, cached_input=0.4, output=15.0)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-image-1",
        "gpt-5-image-mini",
        "gpt-audio",
        "gpt-4o-audio-preview",
        "gpt-4o-mini-tts",
        "gpt-realtime",
        "whisper-1",
        "tts-1",
        "sora-2",
        "no-such-model",
    ],
)
def test_no_list_price(model: str) -> None:
    """Tokens of images and sounds have other prices, and a batch does not say which it had."""
    assert list_price(model) is None


@pytest.mark.parametrize("given", [{}, {"input_mtok": 1}, {"output_mtok": 1}, {"requests_kcount": 1}])
def test_a_model_of_which_the_package_knows_less_has_no_price(given: dict[str, Any]) -> None:
    """It is not taken for free."""
    assert list_prices._price("gpt-9", given) is None


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, only the connection's prices are known."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    found = prices(prices={"mine": MINI})
    assert found.of_model("gpt-5-mini") is None
    assert found.of_model("mine") == ModelPrice(rates=Rates(input=1.0, output=3.0))


@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize("base_url", [OPENAI, "https://gateway.example/v1"])
def test_the_extra_is_named_only_where_it_would_help(
    base_url: str, *, is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At OpenAI, as long as it is missing."""
    if not is_installed:
        monkeypatch.setitem(sys.modules, "genai_prices", None)
    hint = prices(base_url).hint
    assert ("[prices], or " in hint) is (base_url == OPENAI and not is_installed)
    assert hint.endswith("enter them in the connection's field 'prices'")


@pytest.mark.parametrize(
    "base_url",
    [
        "https://gateway.example/v1",
        "https://my-own.openai.azure.com/openai/v1",
        "https://api.openai.com.example/v1",
        "http://127.0.0.1:8000/v1",
    ],
)
def test_other_services_have_no_list_prices(base_url: str) -> None:
    """A model of that name may cost anything there; what the connection says holds."""
    assert prices(base_url).of_model("gpt-5-mini") is None
    assert prices(base_url, prices={"gpt-5-mini": MINI}).of_model("gpt-5-mini") is not None


def test_the_connection_comes_first() -> None:
    """Its price holds for the snapshots of a model too, unless they have one there; not for other models."""
    found = prices(prices={"gpt-5-mini": MINI, "gpt-5-mini-2026-01-02": {"input": 7.0, "output": 8.0}})
    assert found.of_model("gpt-5-mini") == ModelPrice(rates=Rates(**MINI))
    assert found.of_model("gpt-5-mini-2025-08-07") == ModelPrice(rates=Rates(**MINI))
    assert found.of_model("gpt-5-mini-2026-01-02") == ModelPrice(rates=Rates(input=7.0, output=8.0))
    assert found.of_model("gpt-5") == list_price("gpt-5")
    assert prices(prices={"gpt-5": MINI}).of_model("gpt-5-mini") == list_price("gpt-5-mini")


@pytest.mark.parametrize("model", [None, ""])
def test_a_model_without_a_name_has_no_price(model: str | None) -> None:
    """Also where somebody has made up a price for it."""
    assert prices().of_model(model) is None
    assert Prices({"": Rates(input=1, output=1)}).of_model(model) is None


def test_a_batch_costs_its_part() -> None:
    """Half, or what the connection says: a million input tokens of gpt-5-mini for 0.25, or 0.125."""
    usage = Usage(input_tokens=1_000_000, total_tokens=1_000_000)
    assert prices().cost("gpt-5-mini", usage, 1, is_batch=False) == 0.25
    assert prices().cost("gpt-5-mini", usage, 1, is_batch=True) == 0.125
    assert prices(batch_discount=0.8).cost("gpt-5-mini", usage, 1, is_batch=True) == pytest.approx(0.2)
    assert prices(batch_discount=0.8).cost("gpt-5-mini", usage, 1, is_batch=False) == 0.25
    assert NO_PRICES.cost("gpt-5-mini", usage, 1, is_batch=True) is None


def test_each_model_is_looked_up_once() -> None:
    """A job of a million rows asks for each of them."""
    asked: list[str] = []
    found = Prices({}, listed=asked.append)
    for _ in range(3):
        assert found.of_model("unknown") is None
    assert asked == ["unknown"]


def test_a_price_is_a_value() -> None:
    """It cannot be changed by accident."""
    with pytest.raises(AttributeError):
        Rates(input=1, output=1).input = 2  # type: ignore[misc]
    assert msgspec.to_builtins(Rates(input=1, output=2))["cached_input"] is None
