"""``max_cost`` where nobody can tell what a request costs: nothing is sent, in whatever try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import BODY, again, job, rows
from pricekit import ONE_BY_ONE, SHORT, assert_nothing_sent, connect, full_cost, paid
from support import run_task

from airflow_provider_openai_batches.devserver import batch_view
from airflow_provider_openai_batches.devserver.token_usage import TokenUsage
from airflow_provider_openai_batches.operators.inference_faults import LastingError, UnusableInputError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.mark.parametrize("mode", ["batch", "live"])
@pytest.mark.parametrize(
    "given", [{"body": BODY}, {"body": SHORT, "model": "x"}, {"body": SHORT, "max_cost": 0.01}]
)
def test_what_was_refused_is_refused_again(
    priced: DevServer, out: Path, mode: str, given: dict[str, Any]
) -> None:
    """Clearing the task changes nothing of it."""
    operator = job(out, requests=rows(5), **{"max_cost": 50.0, "mode": mode, **given})
    with pytest.raises(UnusableInputError):
        run_task(operator)
    with pytest.raises((UnusableInputError, LastingError)):
        again(operator)
    assert_nothing_sent(priced)


@pytest.mark.parametrize("mode", ["batch", "live"])
def test_prices_that_are_gone_in_a_later_try(priced: DevServer, out: Path, mode: str) -> None:
    given: dict[str, Any] = {"body": SHORT, "max_requests_per_batch": 4, "max_active_batches": 1}
    operator = job(out, requests=rows(30), **given, mode=mode, max_cost=0.9)
    with pytest.raises(LastingError, match="rows are left"):
        run_task(operator)
    before = paid(priced)
    connect({"prices": {}})
    with pytest.raises(LastingError, match="Nobody can tell what the rest would cost, and max_cost=100"):
        again(operator, max_cost=100.0)
    assert paid(priced) == before


@pytest.fixture
def without_usage(priced: DevServer, monkeypatch: pytest.MonkeyPatch) -> DevServer:
    """A server whose answers do not say how many tokens they took."""
    monkeypatch.setattr(TokenUsage, "completion_report", lambda _self: None)
    return priced


def test_live_answers_that_do_not_say_what_they_took(without_usage: DevServer, out: Path) -> None:
    """
    Each of the canary's counts as what a row was estimated to cost; a row in a batch costs half.

    So it is 20 and 40 / 2 before, and 24 and 40 / 2 once four rows of the canary were asked again.
    """
    given: dict[str, Any] = {
        "requests": rows(60, dict.fromkeys(range(4), "invalid_json")),
        "body": SHORT,
        "output_schema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        "retry_invalid": True,
        "max_rounds": 1,
        "canary": 20,
    }
    each = run_task(job(out, **given, mode="live", dry_run=True))["estimate"]["cost"]["usd"] / 60
    with pytest.raises(UnusableInputError, match="estimated to cost more"):
        run_task(job(out, **given, max_cost=39 * each))
    operator = job(out, **given, max_cost=42 * each)
    with pytest.raises(LastingError, match="44 of 60 rows are left"):
        run_task(operator)
    assert without_usage.stats()["live"]["executed"] == 24
    assert again(operator, max_cost=1e3)["rows"] == 60


def test_a_canary_that_measures_nothing(without_usage: DevServer, out: Path) -> None:
    """Without a bound, nobody knows then what the job would cost."""
    with pytest.raises(LastingError, match=r"do not say what the job would cost, and max_cost=1e\+06 needs"):
        run_task(job(out, requests=rows(9), canary=3, max_cost=1e6))
    assert without_usage.batches() == []


def test_answers_without_token_counts_that_were_replaced(without_usage: DevServer, out: Path) -> None:
    """The first answer to a row that was asked again was paid for too: what it took is unknown."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    given: dict[str, Any] = {"output_schema": schema, "retry_invalid": True, "max_rounds": 1}
    cost = run_task(job(out, requests=rows(3, {1: "invalid_json"}), **given))["cost"]
    assert without_usage.stats()["request_lines_paid"] == 4
    assert (cost["is_known"], cost["unmetered"]) == (False, 4)


def test_a_service_that_counts_no_requests(
    priced: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches cost as much as others."""
    monkeypatch.setattr(batch_view, "_request_counts", lambda _record, _now: None)
    given = {"requests": rows(20), **ONE_BY_ONE}
    full = full_cost(priced, out, **given)
    with pytest.raises(LastingError, match="8 of 20 rows are left"):
        run_task(job(out, **given, max_cost=0.7 * full))
    assert paid(priced) == 12
