"""The price of a model in US dollars for a million tokens, and what given tokens cost at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.usage import Usage

MILLION = 1_000_000


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """
    US dollars for a million tokens.

    :param cached_input: for input that the service read from its cache; None: as other input.
    :param cache_write: for input that it wrote there; None: as other input.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None

    def cost(self, usage: Usage) -> float:
        """Return what these tokens cost, in US dollars."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        # Some services count what a model thought beside the output tokens, but in the total.
        output = max(usage.output_tokens, usage.total_tokens - usage.input_tokens)
        dollars = (usage.input_tokens - cached - written) * self.input + output * self.output
        dollars += cached * (self.input if self.cached_input is None else self.cached_input)
        dollars += written * (self.input if self.cache_write is None else self.cache_write)
        return dollars / MILLION


class ModelPrice(msgspec.Struct, frozen=True, kw_only=True):
    """
    The price of a model.

    :param long_rates: those of a request with more input tokens than ``long_from``, for all of its tokens.
    """

    rates: Rates
    long_rates: Rates | None = None
    long_from: float = float("inf")

    @property
    def is_free(self) -> bool:
        return not (self.rates.input or self.rates.output)

    def rates_of(self, input_tokens: int) -> Rates:
        """Return the rates of one request with so many input tokens."""
        return (input_tokens > self.long_from and self.long_rates) or self.rates
