"""The XCom in which a task says how its job is going, compared with what the service has at that moment."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from inferencekit import Crash, MortalHook, MortalOperator, job, rows
from pricekit import ONE_BY_ONE, full_cost, price
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError, OpenAIBatchesError
from airflow_provider_openai_batches.inference import own_loop
from airflow_provider_openai_batches.inference.job_report import JOB_REPORT, JobReport
from airflow_provider_openai_batches.inference.live_files import LiveFiles
from airflow_provider_openai_batches.operators.inference_faults import LastingError, UnusableInputError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

OVER = {"completed", "failed", "expired", "cancelled"}


class Told(NamedTuple):
    """A report, and the batches that the service had when it was stored."""

    report: JobReport
    batches: list[dict[str, Any]]


def watched(context: Any, server: DevServer) -> list[Told]:
    """Note each report that a task stores."""
    told: list[Told] = []
    store = context["ti"].xcom_push

    def push(key: str, value: Any) -> None:
        store(key, value)
        if key == JOB_REPORT:
            told.append(Told(msgspec.convert(value, JobReport, strict=True), server.batches()))

    context["ti"].xcom_push = push
    return told


def reports(operator: Any, server: DevServer, **context: Any) -> list[Told]:
    """Run a task to its end, whatever that is, and return what it said."""
    given = task_context(operator, **context)
    told = watched(given, server)
    with suppress(OpenAIBatchesError):
        run_task(operator, given)
    return told


def cost_of(batches: list[dict[str, Any]]) -> float:
    used = [batch["usage"] for batch in batches if batch.get("usage")]
    tokens = {
        "input_tokens": sum(usage["input_tokens"] for usage in used),
        "output_tokens": sum(usage["output_tokens"] for usage in used),
        "cached_tokens": sum(usage["input_tokens_details"]["cached_tokens"] for usage in used),
    }
    return price(tokens, 0.5)


def assert_true(told: Told, *, live: float | None = None) -> None:
    """
    Compare a report with the batches of the service.

    :param live: what the live answers cost; None: there are none.
    """
    report, batches = told
    known = {batch["id"]: batch for batch in batches if batch["status"] != "failed"}
    assert set(report.running) <= set(known)
    ended = [batch for batch_id, batch in known.items() if batch_id not in report.running]
    assert {batch["status"] for batch in ended} <= OVER
    assert report.finished == len(ended)
    counts = [batch["request_counts"] for batch in ended]
    assert report.answered == sum(each["completed"] for each in counts) + report.live
    assert report.failed == sum(each["failed"] for each in counts) - report.again
    assert report.cost is not None
    assert report.cost.usd == pytest.approx(cost_of(ended) + (live or 0.0))
    assert abs(report.at - time.time()) < 600


def test_one_batch(priced: DevServer, out: Path) -> None:
    """Once before its wait, and once at the end; what it is estimated to cost is the same in both."""
    waits, *_, end = reports(job(out, requests=rows(3)), priced)
    assert_true(waits)
    assert_true(end)
    (batch,) = priced.batches()
    assert (waits.report.state, waits.report.waits_for) == ("waiting", "1 batch runs")
    assert (waits.report.running, waits.report.batches, waits.report.rows) == ([batch["id"]], 1, 3)
    assert (waits.report.finished, waits.report.answered, waits.report.cost) == (
        0,
        0,
        end.report.cost and waits.report.cost,
    )
    assert (end.report.state, end.report.waits_for, end.report.running) == ("complete", "", [])
    assert (end.report.finished, end.report.answered, end.report.failed) == (1, 3, 0)
    assert end.report.conn_id == waits.report.conn_id == "openai_batches_default"


def test_two_rounds(priced: DevServer, out: Path) -> None:
    told = reports(job(out, requests=rows(6, {1: "fail:429*2", 4: "fail:500*1", 5: "fail:400"})), priced)
    for each in told[:-1]:
        assert_true(each)
    assert list(dict.fromkeys(each.report.waits_for for each in told)) == [
        "1 batch runs",
        "1 of 2 batches runs; 2 rows are asked again, round 1",
        "1 of 3 batches runs; 1 row is asked again, round 2",
        "",
    ]
    end = told[-1].report
    assert (end.state, end.rows, end.answered, end.failed) == ("complete", 6, 5, 1)
    assert (end.rounds, end.again, end.batches, end.finished) == (2, 3, 3, 3)
    assert end.cost is not None
    assert end.cost.usd == pytest.approx(cost_of(priced.batches()))


def test_a_full_line(priced: DevServer, out: Path) -> None:
    """Some batches wait although the service has taken others; no wait has two reports."""
    priced.settings(batch_seconds=1.0, enqueued_token_limit=150)
    operator = job(out, requests=rows(12), max_requests_per_batch=2, max_enqueued_tokens=150)
    told = reports(operator, priced)
    for each in told:
        assert_true(each)
    said = {each.report.waits_for for each in told}
    assert any("wait: the account's limit of 150 tokens is full" in words for words in said), said
    assert all(each.report.batches == 6 for each in told)
    assert told[-1].report.state == "complete"


def test_as_many_batches_as_may_run(priced: DevServer, out: Path) -> None:
    priced.settings(batch_seconds=0.4)
    told = reports(job(out, requests=rows(8), max_requests_per_batch=2, max_active_batches=2), priced)
    for each in told:
        assert_true(each)
    assert "2 of 4 batches wait: 2 run, and max_active_batches is 2" in {
        each.report.waits_for for each in told
    }


def test_what_is_left_of_the_money(priced: DevServer, out: Path) -> None:
    """The first batch shows that answers are longer than thought, while the second one runs."""
    given = {"requests": rows(20), **ONE_BY_ONE, "max_active_batches": 2}
    limit = full_cost(priced, out, **given) / 2
    priced.settings(batch_seconds_by_number=[0.05, 1.5])
    told = reports(job(out, **given, max_cost=limit), priced)
    words = f"3 of 5 batches wait: they may cost more than what is left of max_cost={limit:g}"
    assert words in {each.report.waits_for for each in told}
    end = told[-1].report
    assert end.state == "failed"
    assert "max_cost" in end.error
    assert (end.answered, end.finished) == (8, 2)
    assert end.cost is not None
    assert end.cost.usd == pytest.approx(cost_of(priced.batches()))


def test_a_job_that_is_asked_live(priced: DevServer, out: Path) -> None:
    """One report before it begins, which can take hours, and one at its end."""
    live, end = reports(job(out, requests=rows(30), mode="live"), priced)
    assert (live.report.state, live.report.answered, live.report.live) == ("live", 0, 0)
    assert (end.report.state, end.report.answered, end.report.live) == ("complete", 30, 30)
    assert live.report.cost is not None
    assert live.report.cost.usd == 0


def test_a_live_phase_that_takes_long(priced: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every minute it is said how far it is; here, more often."""
    monkeypatch.setattr(own_loop, "MEANWHILE", 0.05)
    priced.faults([{"operation": "live", "action": "delay", "seconds": 0.5, "skip": 20, "times": None}])
    told = [each.report for each in reports(job(out, requests=rows(30), mode="live"), priced)]
    assert {each.state for each in told[:-1]} == {"live"}
    assert sorted(each.live for each in told) == [each.live for each in told]
    halfway = [each for each in told if 0 < each.live < 30]
    assert halfway
    assert all(each.live == each.answered and each.cost and each.cost.usd > 0 for each in halfway)
    assert told[-1].live == 30


def test_a_live_phase_after_a_kill(priced: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first try was answered counts, and what the service refused has failed."""
    write, written = LiveFiles.write, count(1)

    async def dying(self: LiveFiles, line: bytes) -> None:
        if next(written) > 12:
            raise Crash
        await write(self, line)

    operator = job(out, requests=rows(30, {1: "fail:400", 25: "fail:400"}), mode="live", fail_on="any")
    with monkeypatch.context() as patch:
        patch.setattr(LiveFiles, "write", dying)
        with pytest.raises(Crash):
            run_task(operator)
    told = [each.report for each in reports(fresh(operator), priced, try_number=2)]
    assert told[0].state == "live"
    assert 0 < told[0].live == told[0].answered <= 12
    assert (told[-1].state, told[-1].answered, told[-1].failed, told[-1].live) == ("failed", 28, 2, 28)


def test_a_canary(priced: DevServer, out: Path) -> None:
    """Its rows count as answered while the batch of the others runs, and so does what they cost."""
    context = task_context(operator := job(out, requests=rows(9), canary=3))
    told = watched(context, priced)
    summary = run_task(operator, context)
    assert list(dict.fromkeys(each.report.state for each in told)) == ["live", "waiting", "complete"]
    live = price(summary["live"]["usage"], 1.0)
    assert_true(told[1], live=live)
    assert told[1].report.answered == told[1].report.live == 3
    assert told[-1].report.cost is not None
    assert told[-1].report.cost.usd == pytest.approx(summary["cost"]["usd"])


def test_a_deadline(priced: DevServer, out: Path) -> None:
    """What is waited for, what happens then, and that it does."""
    priced.settings(batch_seconds_by_number=[0.05, 8])
    operator = job(out, requests=rows(20), max_requests_per_batch=10, answer_by=1.5)
    told = reports(operator, priced)
    assert_true(told[0])
    assert "then the rest is asked live" in told[0].report.waits_for
    assert [each.report.state for each in told[-2:]] == ["live", "complete"]
    assert told[-1].report.answered == 20
    assert told[-1].report.live == 20 - sum(each["request_counts"]["completed"] for each in priced.batches())


def test_a_try_after_a_kill(priced: DevServer, out: Path) -> None:
    """The second try says what both did."""
    priced.settings(batch_seconds=0.3)
    operator = job(out, operator=MortalOperator, requests=rows(6), max_requests_per_batch=2)
    context = task_context(operator)
    told = watched(context, priced)
    MortalHook.doom = ("download_file", "before", 2)
    with pytest.raises(Crash):
        run_task(operator, context)
    assert {each.report.state for each in told} == {"waiting"}
    MortalHook.doom = ("", "", 0)
    told = reports(fresh(operator), priced, try_number=2)
    for each in told:
        assert_true(each)
    assert (told[-1].report.state, told[-1].report.answered, told[-1].report.finished) == ("complete", 6, 3)


def test_a_job_that_was_complete(priced: DevServer, out: Path) -> None:
    """A later try says so, and what it cost, although it sends nothing."""
    operator = job(out, requests=rows(4), max_requests_per_batch=2)
    first = reports(operator, priced)[-1].report
    (second,) = reports(fresh(operator), priced, try_number=2)
    assert msgspec.structs.replace(second.report, at=first.at, estimate=first.estimate) == first


def test_a_job_with_too_many_failures(priced: DevServer, out: Path) -> None:
    operator = job(out, requests=rows(4, {1: "fail:400"}), fail_on="any")
    told = reports(operator, priced)
    assert_true(told[-1])
    end = told[-1].report
    assert (end.state, end.answered, end.failed) == ("failed", 3, 1)
    assert end.error.startswith("1 of 4 rows have no valid answer")


def test_a_job_that_was_rejected(priced: DevServer, out: Path) -> None:
    """While others still run, it is said that the task is going to fail."""
    priced.settings(batch_seconds=1.5)
    priced.faults([{"operation": "create_batch", "action": "status", "status": 400, "skip": 1}])
    told = reports(job(out, requests=rows(6), max_requests_per_batch=2), priced)
    words = told[0].report.waits_for
    assert (
        words
        == "1 of 3 batches runs; 1 of 3 batches was rejected, and the task fails when the others have ended"
    )
    assert told[-1].report.state == "failed"


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_service_that_is_not_available(priced: DevServer, out: Path, deferrable: bool) -> None:
    """It is said while it lasts, and not any more when the service is back."""
    priced.faults([{"operation": "create_batch", "action": "status", "status": 503, "times": 12}])
    operator = job(out, requests=rows(2), poll_interval=0.2, deferrable=deferrable)
    first, *_, last, end = (each.report for each in reports(operator, priced))
    assert first.waits_for.startswith("the service is not available; the next try is at 20")
    assert "HTTP 503" in first.waits_for
    assert first.running == []
    assert last.waits_for == "1 batch runs"
    assert end.state == "complete"


def test_bad_input(server: DevServer, out: Path) -> None:
    """Nothing was sent, and why is said; the error is the one that fails the task."""
    operator = job(out, requests=[{"text": 1}], body={"input": "{missing}"})
    context = task_context(operator)
    told = watched(context, server)
    with pytest.raises(UnusableInputError, match="missing"):
        run_task(operator, context)
    (only,) = told
    assert only.report.state == "failed"
    assert "missing" in only.report.error
    assert only.report.batches == only.report.rows == 0


def test_a_connection_that_cannot_be_used(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said even where nothing of the job is known."""
    monkeypatch.setenv("AIRFLOW_CONN_BAD", '{"conn_type": "openai_batches", "host": "http://x.example"}')
    context = task_context(operator := job(out, requests=rows(1), openai_conn_id="bad"))
    told = watched(context, server)
    with pytest.raises(InvalidInputError):
        run_task(operator, context)
    assert [(each.report.state, each.report.conn_id) for each in told] == [("failed", "bad")]


def test_a_dry_run_says_nothing(server: DevServer, out: Path) -> None:
    assert reports(job(out, requests=rows(3), dry_run=True), server) == []


@pytest.mark.parametrize("fail_on", ["none", "any"])
def test_what_cannot_be_stored_changes_nothing(server: DevServer, out: Path, fail_on: str) -> None:
    """The job is completed, or fails with its own error."""
    operator = job(out, requests=rows(3, {1: "fail:400"}), fail_on=fail_on)
    context = task_context(operator)

    def broken(key: str, value: Any) -> None:
        if key == JOB_REPORT:
            raise RuntimeError("the metadata database is away")

    context["ti"].xcom_push = broken
    if fail_on == "none":
        assert run_task(operator, context)["counts"]["succeeded"] == 2
    else:
        with pytest.raises(BatchFailed, match="1 of 3 rows"):
            run_task(operator, context)


def test_a_task_that_waits_in_its_worker(priced: DevServer, out: Path) -> None:
    """The same, without a triggerer."""
    told = reports(job(out, requests=rows(6), max_requests_per_batch=2, deferrable=False), priced)
    assert [each.report.state for each in told][-2:] == ["waiting", "complete"]
    for each in told:
        assert_true(each)


def test_instances_of_a_mapped_task(priced: DevServer, out: Path) -> None:
    """Each tells of its own job."""
    for index in range(2):
        told = reports(job(out / str(index), requests=rows(2 + index)), priced, map_index=index)
        assert {each.report.rows for each in told} == {2 + index}


def test_a_lasting_error(priced: DevServer, out: Path) -> None:
    """Airflow's own kind of error takes the place of ours; what is stored says the same."""
    operator = job(out, requests=rows(9, {0: "fail:400", 1: "fail:400"}), canary=2, fail_on="any")
    context = task_context(operator)
    told = watched(context, priced)
    with pytest.raises(LastingError) as caught:
        run_task(operator, context)
    assert told[-1].report.state == "failed"
    assert told[-1].report.error == str(caught.value)[:500]


def test_it_is_small(priced: DevServer, out: Path) -> None:
    """Of many batches the first ones are named, and an error is cut."""
    from airflow_provider_openai_batches.inference.job_report import Reporter

    heard: list[JobReport] = []
    reporter = Reporter(heard.append, _NoLog(), lambda: 1.0)
    reporter.ended(None, BatchFailed("x" * 10_000))
    reporter.ended(None, ValueError("not ours"))
    reporter.ended(None, None)
    (only,) = heard
    assert (len(only.error), only.at) == (500, 1.0)


class _NoLog:
    info = error = warning = staticmethod(lambda *_: None)
