"""
OpenAI's list prices, from the package ``genai-prices`` of the extra ``[prices]``.

They are those that the installed release of the package has: it is asked for no newer ones over the network.
https://github.com/pydantic/genai-prices
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from airflow_provider_openai_batches.pricing.rates import ModelPrice, Rates

# What these cost depends on more than counts of tokens: an image or a sound has tokens of another price. The
# words are those of units, and of models whose prices are not all in the package.
_OTHER_UNITS = ("image", "audio", "hours", "mchars")
_OTHER_MODELS = (*_OTHER_UNITS, "tts", "realtime", "transcribe", "whisper", "live", "sora", "dall-e")


def has_list_prices() -> bool:
    """Whether the package is installed."""
    return find_spec("genai_prices") is not None


def list_price(model: str) -> ModelPrice | None:
    """Return the list price of a model; None if it has none, or the package is not installed."""
    try:
        from genai_prices import data_snapshot  # noqa: PLC0415 - optional, and takes 30 MB
    except ImportError:
        return None
    providers = data_snapshot.get_snapshot().providers
    openai = next(provider for provider in providers if provider.id == "openai")
    found = openai.find_model(model)
    return None if found is None else _price(found.id, vars(found.get_prices(datetime.now(UTC))))


def _price(model: str, given: dict[str, Any]) -> ModelPrice | None:
    """
    Read the prices of a model.

    :param model: its name in the package.
    :param given: by unit: a number, or the base and the tiers of a price that depends on the prompt's length.
    """
    prices = {unit: price for unit, price in given.items() if price is not None}
    if not prices and "moderation" in model:  # it is free
        return ModelPrice(rates=Rates(input=0.0, output=0.0))
    has_output = "output_mtok" in prices or "embedding" in model
    if "input_mtok" not in prices or not has_output or any(word in model for word in _OTHER_MODELS):
        return None
    if any(other in unit for unit in prices for other in _OTHER_UNITS):
        return None
    starts = {tier.start for price in prices.values() for tier in getattr(price, "tiers", ())}
    if not starts:
        return ModelPrice(rates=_rates(prices, 0))
    if len(starts) > 1:  # no model of OpenAI has it
        return None
    start = starts.pop()
    return ModelPrice(rates=_rates(prices, 0), long_rates=_rates(prices, start + 1), long_from=start)


def _rates(prices: dict[str, Any], input_tokens: int) -> Rates:
    """Return the rates of a request with so many input tokens."""

    def rate(unit: str) -> float | None:
        price = prices.get(unit)
        for tier in getattr(price, "tiers", ()):
            if input_tokens > tier.start:
                return float(tier.price)
        price = getattr(price, "base", price)
        return None if price is None else float(price)

    return Rates(
        input=rate("input_mtok") or 0.0,
        output=rate("output_mtok") or 0.0,  # embeddings have no output
        cached_input=rate("cache_read_mtok"),
        cache_write=rate("cache_write_mtok"),
    )
