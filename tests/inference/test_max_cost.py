"""What a job costs: said before, held to a limit while it runs, and added up afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import BODY, MortalOperator, again, job, killed, manifest, results, rows
from pricekit import ONE_BY_ONE, PRICES, SHORT, assert_nothing_sent, connect, full_cost, paid, price
from support import run_task

from airflow_provider_openai_batches.exceptions import InvalidInputError, TransportError
from airflow_provider_openai_batches.inference import live, live_rows
from airflow_provider_openai_batches.observability import metrics
from airflow_provider_openai_batches.operators.inference_faults import LastingError, UnusableInputError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def test_a_batch_costs_half(priced: DevServer, out: Path) -> None:
    summary = run_task(job(out, requests=rows(6), max_requests_per_batch=4))
    assert summary["cost"]["usd"] == pytest.approx(price(summary["usage"], 0.5))
    assert summary["cost"]["is_known"] is True
    (item,) = summary["cost"]["items"]
    assert (item["model"], item["way"]) == ("gpt-5-mini", "batch")
    assert manifest(out)["cost"]["usd"] == summary["cost"]["usd"] > 0


def test_the_discount_of_the_connection(server: DevServer, out: Path) -> None:
    connect({"prices": PRICES, "batch_discount": 0.8})
    summary = run_task(job(out, requests=rows(2)))
    assert summary["cost"]["usd"] == pytest.approx(price(summary["usage"], 0.8))


def test_what_is_asked_live_costs_all(priced: DevServer, out: Path) -> None:
    """The canary is live, and the rest is in a batch."""
    summary = run_task(job(out, requests=rows(9), canary=3))
    live, batch = summary["cost"]["items"][1], summary["cost"]["items"][0]
    used = summary["live"]["usage"]
    assert (live["way"], batch["way"]) == ("live", "batch")
    assert live["usd"] == pytest.approx(price(used, 1.0))
    rest = {name: count - used[name] for name, count in summary["usage"].items()}
    assert batch["usd"] == pytest.approx(price(rest, 0.5))
    assert summary["cost"]["usd"] == pytest.approx(live["usd"] + batch["usd"])


def test_models_with_and_without_a_price(priced: DevServer, out: Path) -> None:
    """What is unknown is named, and never in the sum."""
    lines = [{**row, "model": "own-model" if n % 2 else "gpt-5-mini"} for n, row in enumerate(rows(6))]
    summary = run_task(job(out, requests=lines, body={**BODY, "model": "{model}"}))
    cost = summary["cost"]
    assert (cost["unpriced"], cost["is_known"]) == (["own-model"], False)
    known = {item["model"]: item["usd"] for item in cost["items"]}
    assert known == {"gpt-5-mini": cost["usd"], "own-model": None}
    parts = [row["usage"] for n, row in enumerate(results(out)) if n % 2 == 0]
    assert cost["usd"] == pytest.approx(sum(price(usage, 0.5) for usage in parts))


def test_answers_that_were_paid_for_twice(priced: DevServer, out: Path) -> None:
    """An answer that is not valid, and was asked for again, was paid for too."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    markers = {1: "invalid_json"}
    operator = job(out, requests=rows(3, markers), output_schema=schema, retry_invalid=True, max_rounds=1)
    summary = run_task(operator)
    assert paid_lines(priced) == 4
    assert summary["cost"]["usd"] == pytest.approx(price(summary["usage"], 0.5))


def paid_lines(server: DevServer) -> int:
    return int(server.stats()["request_lines_paid"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_cost": 0.01, "body": SHORT}, r"more than max_cost=0.01: about \d+ input tokens and 5 output"),
        ({"max_cost": 1e6, "model": "x"}, r"needs a price, and there is none of x"),
        (
            {"max_cost": 1e6},
            "nothing says it: give the body max_completion_tokens or max_tokens",
        ),
        ({"max_cost": 0.001, "canary": 2}, r"more than max_cost=0.001"),
        ({"max_cost": 0.01, "mode": "live", "body": SHORT}, r"more than max_cost=0.01"),
    ],
)
def test_refused_before_anything_is_sent(
    priced: DevServer, out: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnusableInputError, match=message):
        run_task(job(out, requests=rows(5), **given))
    assert_nothing_sent(priced)
    assert list(out.rglob("*.jsonl")) == []


@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf"), True, "25"])
def test_no_amount(out: Path, amount: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"max_cost is .*; it must be an amount of US"):
        job(out, requests=["a"], max_cost=amount)


def test_a_dry_run_says_the_price(priced: DevServer, out: Path) -> None:
    """The most that the requests allow, where nothing else is known."""
    said = run_task(job(out, requests=rows(10), body=SHORT, dry_run=True))["estimate"]
    assert (said["output_tokens"], said["basis"]) == (10, "most")
    assert said["cost"]["usd"] == pytest.approx(0.5 * (said["input_tokens"] * 0.0001 + 10 * 0.02))
    assert_nothing_sent(priced)


def test_a_dry_run_prices_the_canary_as_live(priced: DevServer, out: Path) -> None:
    """Four of ten rows at the whole price: 4 + 6 / 2 instead of 10 / 2."""
    given: dict[str, Any] = {
        "requests": [{"text": "same", "marker": ""}] * 10,
        "body": SHORT,
        "dry_run": True,
    }
    without, with_it = (
        run_task(job(out.parent / f"canary-{canary}", **given, canary=canary))["estimate"]["cost"]
        for canary in (0, 4)
    )
    assert with_it["usd"] == pytest.approx(without["usd"] * 7 / 5)
    usd = {item["way"]: item["usd"] for item in with_it["items"]}
    assert usd["live"] / usd["batch"] == pytest.approx(4 / 3)


def test_a_dry_run_without_a_bound_looks_at_earlier_batches(priced: DevServer, out: Path) -> None:
    unknown = run_task(job(out, requests=rows(10), dry_run=True))["estimate"]
    assert (unknown["output_tokens"], unknown["basis"]) == (None, "unknown")
    used = run_task(job(out, requests=rows(10)))["usage"]
    said = run_task(job(out.parent / "next", requests=rows(20), dry_run=True))["estimate"]
    assert (said["output_tokens"], said["basis"]) == (2 * used["output_tokens"], "earlier")


def test_a_dry_run_without_a_connection(out: Path) -> None:
    said = run_task(job(out, requests=rows(2), dry_run=True, openai_conn_id="no_such"))["estimate"]
    assert said["cost"]["unpriced"] == ["gpt-5-mini"]


def test_earlier_batches_of_the_task_say_how_long_answers_are(priced: DevServer, out: Path) -> None:
    used = run_task(job(out, requests=rows(10)))["usage"]
    cost = price(used, 0.5)
    with pytest.raises(UnusableInputError, match="as many for each request as this task's earlier batches"):
        run_task(job(out.parent / "next", requests=rows(10), max_cost=0.9 * cost))
    summary = run_task(job(out.parent / "next", requests=rows(10), max_cost=1.5 * cost))
    assert summary["counts"]["succeeded"] == 10


def test_the_canary_says_that_it_is_too_much(priced: DevServer, out: Path) -> None:
    """Nothing is submitted; with a higher limit the next try goes on from there."""
    operator = job(out, requests=rows(20), canary=2, max_cost=0.5)
    with pytest.raises(LastingError, match=r"the job would cost more than max_cost=0.5: about"):
        run_task(operator)
    assert priced.batches() == []
    assert priced.stats()["live"]["executed"] == 2
    assert again(operator, max_cost=100.0)["counts"]["succeeded"] == 20
    assert paid(priced) == 20


def test_nothing_is_submitted_that_would_pass_the_limit(priced: DevServer, out: Path) -> None:
    """The first batch shows that answers are longer than thought, so the last ones are not sent."""
    given = {"requests": rows(20), **ONE_BY_ONE}
    full = full_cost(priced, out, **given)
    operator = job(out, **given, max_cost=0.7 * full)
    with pytest.raises(LastingError, match=r"8 of 20 rows are left. Clear the task with a higher max_cost"):
        run_task(operator)
    assert paid(priced) == 12
    assert not (out / "manifest.json").exists()
    found = results(out)
    assert [row["status"] for row in found] == ["succeeded"] * 12 + ["missing"] * 8
    summary = again(operator, max_cost=2 * full)
    assert summary["counts"]["succeeded"] == 20
    assert paid(priced) == 20
    assert summary["cost"]["usd"] == pytest.approx(full)


def test_the_same_limit_again_sends_nothing(priced: DevServer, out: Path) -> None:
    given = {"requests": rows(20), **ONE_BY_ONE}
    operator = job(out, **given, max_cost=0.5)
    with pytest.raises(LastingError, match="rows are left"):
        run_task(operator)
    before = len(priced.batches())
    assert before >= 1
    with pytest.raises(LastingError, match="rows are left"):
        again(operator)
    assert len(priced.batches()) == before


def test_rows_that_are_asked_again_count(priced: DevServer, out: Path) -> None:
    """A follow-up that would pass the limit is not sent."""
    full = full_cost(priced, out, requests=rows(40))
    priced.settings(failing_share=0.5, failing_statuses=[500])
    operator = job(out, requests=rows(40), body=SHORT, max_cost=0.75 * full)
    with pytest.raises(LastingError, match=r"\d+ of 40 rows are left") as caught:
        run_task(operator)
    assert f"{40 - paid(priced)} of 40 rows are left" in str(caught.value)
    priced.settings(failing_share=0)
    assert again(operator, max_cost=2 * full)["counts"]["succeeded"] == 40
    assert paid(priced) == 40


def test_nothing_is_asked_live_that_would_pass_the_limit(priced: DevServer, out: Path) -> None:
    given: dict[str, Any] = {"requests": rows(60), "body": SHORT, "mode": "live"}
    full = full_cost(priced, out, **given)
    operator = job(out, **given, max_cost=0.6 * full)
    with pytest.raises(LastingError, match=r"The rest would pass max_cost=.* rows are left"):
        run_task(operator)
    first = paid(priced)
    # What is under way is counted at what the answers so far took.
    assert 1 <= first < 60
    summary = again(operator, max_cost=2 * full)
    assert (summary["counts"]["succeeded"], paid(priced)) == (60, 60)


def test_live_answers_of_an_earlier_try_count(priced: DevServer, out: Path) -> None:
    given: dict[str, Any] = {"requests": rows(30), "body": SHORT, "mode": "live"}
    operator = job(out, **given, max_cost=0.9)
    with pytest.raises(LastingError, match="rows are left"):
        run_task(operator)
    before = paid(priced)
    with pytest.raises(LastingError, match="rows are left"):
        again(operator)
    assert paid(priced) == before


@pytest.mark.parametrize(
    "doom", [("create_batch", moment, n) for moment in ("before", "after") for n in (1, 2, 3)]
)
@pytest.mark.parametrize("keeps_files", [True, False])
def test_kills_and_retries_never_pass_the_limit(
    priced: DevServer, out: Path, doom: tuple[str, str, int], *, keeps_files: bool
) -> None:
    """However a try ends, the next ones know what was spent, also without the job's files."""
    given = {"requests": rows(20), **ONE_BY_ONE}
    full = full_cost(priced, out, **given)
    operator = job(out, MortalOperator, **given, max_cost=0.7 * full)
    killed(operator, *doom)
    if not keeps_files:
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    for number in (2, 3):
        with pytest.raises(LastingError, match="8 of 20 rows are left"):
            again(operator, number)
    assert paid(priced) == 12
    assert again(operator, 4, max_cost=2 * full)["counts"]["succeeded"] == 20
    assert paid(priced) == 20


def test_a_later_process_knows_what_the_canary_cost(priced: DevServer, out: Path) -> None:
    """Half of the money went into the canary, so what is left is enough for two batches of four."""
    given = {"requests": rows(20), **ONE_BY_ONE}
    full = full_cost(priced, out, **given)
    # Eight rows live cost as much as sixteen in batches.
    operator = job(out, **given, canary=8, max_cost=1.25 * full)
    with pytest.raises(LastingError, match=r"the job would cost more than|rows are left"):
        run_task(operator)
    before = priced.stats()["request_lines_paid"]
    assert before <= 8
    assert again(operator, max_cost=3 * full)["counts"]["succeeded"] == 20
    assert paid(priced) == 20


def test_batches_without_answers_cost_nothing(priced: DevServer, out: Path) -> None:
    """They are asked again until the rounds are over, whatever they were estimated to cost."""
    priced.settings(failing_share=1.0, failing_statuses=[500])
    operator = job(out, requests=rows(8), body=SHORT, max_cost=0.2, max_rounds=3, max_requests_per_batch=8)
    with pytest.raises(Exception, match="Not one of 8 rows succeeded"):
        run_task(operator)
    assert len(priced.batches()) == 4


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The sums that the metric counts, by way."""
    sent: dict[str, float] = {}

    def send(_method: str, name: str, value: float, tags: dict[str, str]) -> None:
        if name == "cost":
            assert (tags["dag_id"], tags["model"]) == ("dag", "gpt-5-mini")
            sent[tags["way"]] = sent.get(tags["way"], 0) + value

    monkeypatch.setattr(metrics, "_send", send)
    return sent


def test_the_cost_is_counted(priced: DevServer, out: Path, counted: dict[str, float]) -> None:
    """Batches and live answers, as the manifest has them."""
    summary = run_task(job(out, requests=rows(9), canary=3, max_requests_per_batch=3))
    assert counted == pytest.approx({item["way"]: item["usd"] for item in summary["cost"]["items"]})


def test_live_answers_before_a_fault_are_counted(
    priced: DevServer, out: Path, counted: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were paid for, and nobody asks for them again."""
    ask = live.ask

    async def fail_at_the_end(*args: Any, **options: Any) -> None:
        await ask(*args, **options)
        raise TransportError("The network is gone")

    monkeypatch.setattr(live_rows, "ask", fail_at_the_end)
    summary = run_task(job(out, requests=rows(9), mode="live"))
    assert paid(priced) == 9
    assert counted == pytest.approx({"live": summary["cost"]["usd"]})
