"""What requests are going to cost, and what that is based on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.pricing.cost import Bill, Cost, Way, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.pricing.prices import Prices

Basis: TypeAlias = Literal["canary", "earlier", "given", "most", "unknown"]
_BASES: dict[str, str] = {
    "canary": "as many for each row as the canary's rows had",
    "earlier": "as many for each request as this task's earlier batches had",
    "given": "as many for each request as was said",
    "most": "the most that the requests allow",
}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """
    Requests of one model.

    :param way: how they are asked.
    :param input_tokens: how many they are estimated to have.
    :param most_output_tokens: how many output tokens they allow; None: there is no bound in each of them.
    """

    model: str | None
    way: Way
    requests: int
    input_tokens: int
    most_output_tokens: int | None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """
    What requests are going to cost.

    :param output_tokens: None: nobody can say.
    :param basis: where ``output_tokens`` comes from.
    :param cost: without the output tokens where these are unknown.
    """

    requests: int
    input_tokens: int
    output_tokens: int | None
    basis: Basis
    cost: Cost

    @property
    def is_known(self) -> bool:
        """Whether nothing is missing in the cost."""
        return self.cost.is_known and self.output_tokens is not None

    def __str__(self) -> str:
        priced, said = (
            in_words(self.cost.usd, self.cost.unpriced),
            f"about {self.input_tokens:,} input tokens",
        )
        if self.output_tokens is None:
            priced = priced if self.cost.unpriced else f"≥ {priced}"
            return f"{said}, and an unknown number of output tokens: {priced}"
        basis = f" ({_BASES[self.basis]})" if self.output_tokens else ""
        return f"{said} and {self.output_tokens:,} output tokens{basis}: {priced}"


def estimate(
    loads: Iterable[Load],
    prices: Prices,
    *,
    per_request: float | None = None,
    basis: Basis = "most",
) -> Estimate:
    """
    Estimate what requests cost.

    :param per_request: the output tokens of a request, where these were measured; None: the most that the
        requests allow.
    :param basis: where that was measured.
    """
    bill, unknown, requests = Bill(prices), False, 0
    for load in loads:
        output = load.most_output_tokens
        if per_request is not None and output != 0:
            output = round(per_request * load.requests)
        unknown = unknown or output is None
        requests += load.requests
        total = load.input_tokens + (output or 0)
        usage = Usage(input_tokens=load.input_tokens, output_tokens=output or 0, total_tokens=total)
        bill.meter(load.model, load.way).add_several(usage, load.requests)
    tokens = bill.usage()
    return Estimate(
        requests=requests,
        input_tokens=tokens.input_tokens,
        output_tokens=None if unknown else tokens.output_tokens,
        basis="unknown" if unknown else basis if per_request is not None else "most",
        cost=bill.cost(),
    )
