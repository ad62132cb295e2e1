"""
What tokens cost. A price is known or unknown, and never guessed.

A model's price is what the connection says (``prices``), or at OpenAI itself the list price. A batch costs a
part of it (``batch_discount``): https://developers.openai.com/api/docs/guides/batch
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from airflow_provider_openai_batches.api.config import OPENAI_HOST
from airflow_provider_openai_batches.pricing.list_prices import has_list_prices, list_price
from airflow_provider_openai_batches.pricing.rates import ModelPrice, Rates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.usage import Usage

# The date at the end of the name of a model's snapshot, such as gpt-5-mini-2025-08-07.
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Prices:
    """
    The prices that hold on one connection.

    :param own: what the connection says, by model.
    :param batch_discount: the part of the price that a request in a batch costs.
    :param listed: returns the list price of a model; None if it has none.
    """

    def __init__(
        self,
        own: Mapping[str, Rates],
        batch_discount: float = 0.5,
        listed: Callable[[str], ModelPrice | None] | None = None,
    ) -> None:
        self._own, self._listed = own, listed
        self.batch_discount = batch_discount
        self._known: dict[str, ModelPrice | None] = {}

    @classmethod
    def of(cls, config: ClientConfig) -> Self:
        """Return the prices of a connection. Only OpenAI itself has list prices."""
        own = {model: Rates(**rates) for model, rates in config.prices.items()}
        is_openai = urlsplit(config.base_url).hostname == OPENAI_HOST
        return cls(own, config.batch_discount, list_price if is_openai else None)

    def of_model(self, model: str | None) -> ModelPrice | None:
        """Return the price of a model, or of the model that it is a snapshot of; None if it is unknown."""
        name = model or ""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    @property
    def hint(self) -> str:
        """Say how models without a price get one. At other services, list prices would not help."""
        enter = "enter them in the connection's field 'prices'"
        would_help = self._listed is not None and not has_list_prices()
        return f"install airflow-provider-openai-batches[prices], or {enter}" if would_help else enter

    def _find(self, name: str) -> ModelPrice | None:
        if not name:
            return None
        own = self._own.get(name) or self._own.get(_SNAPSHOT.sub("", name))
        if own is not None:
            return ModelPrice(rates=own)
        return None if self._listed is None else self._listed(name)

    def share(self, *, is_batch: bool) -> float:
        """Return the part of the price that is paid."""
        return self.batch_discount if is_batch else 1.0

    def cost(self, model: str | None, usage: Usage, requests: int, *, is_batch: bool) -> float | None:
        """
        Return what the tokens of several requests cost, in US dollars; None if the price is unknown.

        How long each request was is not known here, so their average says whether they are long.
        """
        price = self.of_model(model)
        if price is None:
            return None
        rates = price.rates_of(-(-usage.input_tokens // max(1, requests)))
        return rates.cost(usage) * self.share(is_batch=is_batch)


NO_PRICES = Prices({})
