"""What was paid, or is going to be: tokens by model, in batches and live, and their price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.pricing.prices import Prices

Way: TypeAlias = Literal["batch", "live"]
_CENT = 0.01
NO_MODEL = "no model named"


class CostItem(msgspec.Struct, frozen=True, kw_only=True):
    """
    A part of a sum.

    :param way: how the requests were sent.
    :param usd: the price in US dollars; None if it is unknown.
    :param unmetered: how many answers do not say how many tokens they took, so that their price is unknown.
    """

    model: str
    way: Way
    usage: Usage
    usd: float | None = None
    unmetered: int = 0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """
    A sum.

    :param usd: the parts whose price is known, in US dollars.
    :param unpriced: the models without a price of which tokens were used.
    :param unmetered: how many answers with a price do not say how many tokens they took.
    :param items: the parts, by model and way.
    """

    usd: float = 0.0
    unpriced: list[str] = []
    unmetered: int = 0
    items: list[CostItem] = []

    @property
    def is_known(self) -> bool:
        """Whether nothing is missing in the sum."""
        return not (self.unpriced or self.unmetered)

    def __str__(self) -> str:
        return in_words(self.usd, self.unpriced, self.unmetered)


def dollars(usd: float) -> str:
    """Return an amount in words; one below a cent keeps two digits that count."""
    if 0 < abs(usd) < _CENT:
        return f"${usd:.2g}" if abs(usd) >= _CENT / 100 else f"${usd:.1e}"
    return f"${usd:,.2f}"


def in_words(usd: float, unpriced: Iterable[str] = (), unmetered: int = 0) -> str:
    """
    Say how much it is, and what is not in it.

    :param unpriced: the models without a price.
    :param unmetered: the number of answers without token counts.
    """
    models = sorted(set(unpriced))
    missing = []
    if models:
        missing.append(f"{models[0] if len(models) == 1 else f'{len(models)} models'} without a price")
    if unmetered:
        missing.append(f"{unmetered:,} answers without token counts")
    return ", ".join([amount(usd, is_known=not missing), *missing])


def amount(usd: float, *, is_known: bool) -> str:
    """Say how much it is; ``≥`` if that is not all."""
    if is_known:
        return dollars(usd)
    return f"≥ {dollars(usd)}" if usd else "unknown"


class Meter(msgspec.Struct):
    """
    The tokens of requests of one model that were sent in one way.

    :param long_from: a request with more input tokens has the price for long ones.
    """

    long_from: float
    usage: Usage = msgspec.field(default_factory=Usage)
    long_usage: Usage = msgspec.field(default_factory=Usage)
    unmetered: int = 0

    def add(self, usage: Usage) -> None:
        """Add the tokens of one request."""
        (self.usage if usage.input_tokens <= self.long_from else self.long_usage).add(usage)

    def add_several(self, usage: Usage, requests: int) -> None:
        """Add the tokens of several requests; how long each one was is not known, so their average counts."""
        is_long = usage.input_tokens > self.long_from * max(1, requests)
        (self.long_usage if is_long else self.usage).add(usage)

    @property
    def total(self) -> Usage:
        total = Usage()
        total.add(self.usage)
        total.add(self.long_usage)
        return total


class Bill:
    """Adds up what requests took."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._meters: dict[tuple[str, Way], Meter] = {}

    def meter(self, model: str | None, way: Way) -> Meter:
        """Return where to add the tokens of requests of a model."""
        key = model or "", way
        if key not in self._meters:
            price = self._prices.of_model(model)
            self._meters[key] = Meter(float("inf") if price is None else price.long_from)
        return self._meters[key]

    def usage(self, way: Way | None = None) -> Usage:
        """Return all tokens, or those of the requests that were sent in one way."""
        total = Usage()
        for (_, sent), meter in self._meters.items():
            if way in {None, sent}:
                total.add(meter.total)
        return total

    def cost(self) -> Cost:
        """Return what it costs."""
        items = [self._item(model, way, meter) for (model, way), meter in sorted(self._meters.items())]
        items = [item for item in items if item.usage.total_tokens or item.unmetered]
        return Cost(
            usd=round(sum((item.usd or 0.0 for item in items), 0.0), 9),
            unpriced=sorted({item.model or NO_MODEL for item in items if item.usd is None}),
            unmetered=sum(item.unmetered for item in items if item.usd is not None),
            items=items,
        )

    def _item(self, model: str, way: Way, meter: Meter) -> CostItem:
        price, usd, unmetered = self._prices.of_model(model), None, meter.unmetered
        if price is not None:
            usd = price.rates.cost(meter.usage) + (price.long_rates or price.rates).cost(meter.long_usage)
            usd = round(usd * self._prices.share(is_batch=way == "batch"), 9)
            unmetered = 0 if price.is_free else unmetered
        return CostItem(model=model, way=way, usage=meter.total, usd=usd, unmetered=unmetered)
