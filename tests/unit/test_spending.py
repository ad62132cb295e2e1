"""Which result lines were paid for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.inference.data.spending import add_live, usage_in
from airflow_provider_openai_batches.pricing.cost import Bill
from airflow_provider_openai_batches.pricing.prices import Prices
from airflow_provider_openai_batches.pricing.rates import Rates

if TYPE_CHECKING:
    from pathlib import Path

USAGE = {"input_tokens": 1_000_000, "output_tokens": 1_000_000, "total_tokens": 2_000_000}


@pytest.mark.parametrize(
    ("status", "body", "usd", "unmetered"),
    [
        (200, {"status": "completed", "usage": USAGE}, 3.0, 0),
        (200, {"status": "incomplete", "usage": USAGE}, 3.0, 0),
        (200, {"status": "failed", "error": {"code": "server_error"}, "usage": USAGE}, 3.0, 0),
        (200, {"status": "failed", "error": {"code": "server_error"}}, 0.0, 0),
        (200, {"status": "completed"}, 0.0, 1),
        (500, {"error": {"code": "server_error"}}, 0.0, 0),
    ],
)
def test_what_was_paid(tmp_path: Path, status: int, body: dict[str, Any], usd: float, unmetered: int) -> None:
    """As in the results: tokens that a failed answer reports are paid for. 1,000,000 x 1 + 1,000,000 x 2."""
    line = {"id": "a", "custom_id": "row-0", "response": {"status_code": status, "body": body}, "error": None}
    data = json.dumps(line).encode() + b"\n"
    bill, spec = Bill(Prices({"m": Rates(input=1.0, output=2.0)})), spec_of("/v1/responses")
    assert add_live(bill, data, spec, "m") is bool(usd or unmetered)
    assert (bill.cost().usd, bill.cost().unmetered) == (usd, unmetered)
    (tmp_path / "results.jsonl").write_bytes(data)
    used = usage_in([tmp_path / "results.jsonl"], spec)
    assert (used.total_tokens if used else 0) == (2_000_000 if usd else 0)
