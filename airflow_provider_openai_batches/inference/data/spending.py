"""What result lines cost that were not merged yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.usage import Usage, usage_of
from airflow_provider_openai_batches.inference.data.lines import body_of, classify, read_line
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.endpoints import EndpointSpec
    from airflow_provider_openai_batches.pricing.cost import Bill
    from airflow_provider_openai_batches.storage import AnyPath


class _Model(msgspec.Struct):
    model: Any = None


def model_in(body: msgspec.Raw) -> str | None:
    """Return the model that made an answer, as it says."""
    try:
        model = msgspec.json.decode(body, type=_Model).model
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return model if isinstance(model, str) else None


def add_live(bill: Bill, data: bytes, spec: EndpointSpec, model: str | None) -> bool:
    """
    Add a live answer to a bill, and return whether it was paid for.

    :param data: its line.
    :param model: that of all requests; None: the answer says it.
    """
    body = _paid_body(data, spec)
    if body is None:
        return False
    meter, usage = bill.meter(model or model_in(body), "live"), usage_of(body)
    if usage and usage.total_tokens:
        meter.add(usage)
    else:
        meter.unmetered += 1
    return True


def usage_in(paths: Iterable[AnyPath], spec: EndpointSpec) -> Usage | None:
    """Add up the tokens of the answers in result files; None if no answer says how many it took."""
    total, is_any = Usage(), False
    for path in paths:
        with open_binary(path) as lines:
            for data in lines:
                body = _paid_body(data, spec)
                if body is not None and (usage := usage_of(body)):
                    total.add(usage)
                    is_any = True
    return total if is_any else None


def _paid_body(data: bytes, spec: EndpointSpec) -> msgspec.Raw | None:
    line = read_line(data)
    if line is None or line.response is None:
        return None
    body = body_of(line.response)
    is_paid = classify(line, spec).status == "succeeded" or usage_of(
        body
    )  # one that failed inside took tokens
    return body if is_paid else None
