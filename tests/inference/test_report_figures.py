"""What a task reports when it fails: no row and no dollar is counted nowhere, and none is forgotten."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inferencekit import job, rows
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.exceptions import (
    BatchTimeout,
    InvalidInputError,
    LoadFailed,
    OpenAIBatchesError,
)
from airflow_provider_openai_batches.inference.job_report import JOB_REPORT, JobReport, _running
from airflow_provider_openai_batches.inference.runner import Runner

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def told(context: Any) -> JobReport:
    """The last report of a task."""
    return msgspec.convert(context["ti"].xcoms[JOB_REPORT], JobReport)


@pytest.mark.parametrize("cancels", [True, False])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_job_that_is_out_of_time(priced: DevServer, out: Path, *, cancels: bool, deferrable: bool) -> None:
    """What is cancelled, or runs on, is named: the service has the rest of the figures."""
    priced.settings(batch_seconds_by_number=[0.05, 30, 30])
    operator = job(
        out,
        requests=rows(6),
        max_requests_per_batch=2,
        batch_timeout=1.5,
        cancel_on_timeout=cancels,
        deferrable=deferrable,
    )
    context = task_context(operator)
    with pytest.raises(BatchTimeout):
        run_task(operator, context)
    report, batches = told(context), priced.batches()
    assert report.state == "failed"
    left = {batch["id"] for batch in batches if batch["status"] != "completed"}
    collected = {batch["id"] for batch in batches} - set(report.running)
    assert (len(batches), report.finished) == (3, len(collected))
    assert left <= set(report.running)
    assert report.running_total == len(report.running)
    assert report.answered == 2 * len(collected)


def test_what_has_ended_and_cannot_be_collected(priced: DevServer, out: Path) -> None:
    """While the service is away, a batch whose results are still there is counted among those that run."""
    priced.settings(batch_seconds=0.05)
    fault = {"operation": "download_file", "action": "status", "status": 503, "times": 12}
    priced.faults([fault])
    operator = job(out, requests=rows(4), max_requests_per_batch=2, poll_interval=0.2)
    context, said = task_context(operator), []

    def push(key: str, value: Any) -> None:
        said.append((key, value))

    context["ti"].xcom_push = push
    run_task(operator, context)
    reports = [msgspec.convert(value, JobReport) for key, value in said if key == JOB_REPORT]
    away = [each for each in reports if "not available" in each.waits_for]
    assert away
    for each in away:
        assert len(each.running) == each.running_total == each.batches - each.finished
        assert each.answered + 2 * each.running_total == 4
    assert (reports[-1].state, reports[-1].running, reports[-1].running_total) == ("complete", [], 0)


# -- without a job -------------------------------------------------------------------------------------------


def figures(report: JobReport) -> dict[str, Any]:
    changed = ("state", "at", "error", "waits_for")
    return {name: value for name, value in msgspec.structs.asdict(report).items() if name not in changed}


def table_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a table that takes no such row."""
    database = tmp_path / "rows.db"
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps({"conn_type": "sqlite", "host": str(database)}))
    return database


@pytest.mark.parametrize("error", [InvalidInputError, LoadFailed])
def test_a_table_that_refuses_the_rows(
    priced: DevServer, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """In the try that completed the job, and in a later one that only finds it complete."""
    from airflow_provider_openai_batches.operators import inference_table

    def refuses(*_: object, **__: object) -> None:
        raise error("no such column")

    table_of(tmp_path, monkeypatch)
    monkeypatch.setattr(inference_table, "write_to_table", refuses)
    given: dict[str, Any] = {"output_table": "t", "output_conn_id": "db"}
    operator = job(out, requests=rows(4, {1: "fail:400"}), max_requests_per_batch=2, **given)
    said = []
    for number in (1, 2):
        context = task_context(operator, try_number=number)
        with pytest.raises(error):
            run_task(fresh(operator), context)
        said.append(told(context))
        assert "no such column" in said[-1].error
    assert [(each.state, each.rows, each.answered, each.failed) for each in said] == [("failed", 4, 3, 1)] * 2
    assert [(each.batches, each.finished, each.running) for each in said] == [(2, 2, [])] * 2
    assert said[0].cost
    assert said[0].cost == said[1].cost
    assert len(priced.batches()) == 2


def waits_once(operator: Any, context: Any, monkeypatch: pytest.MonkeyPatch, then: Any) -> JobReport:
    """Run a task to its first wait, do something, and let it go on; return what it had reported."""
    before: list[JobReport] = []
    resume = type(operator).resume_execution

    def resumed(self: Any, *args: Any) -> Any:
        before.append(told(context))
        then()
        return resume(self, *args)

    monkeypatch.setattr(type(operator), "resume_execution", resumed)
    with suppress(OpenAIBatchesError):
        run_task(operator, context)
    return before[0]


def test_a_connection_that_is_spoilt_while_the_task_waits(
    priced: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the try said before it waited stays true."""
    operator = job(out, requests=rows(4), max_requests_per_batch=2)
    context = task_context(operator)
    bad = json.dumps({"conn_type": "openai_batches", "host": "http://x.example"})
    before = waits_once(
        operator, context, monkeypatch, lambda: monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", bad)
    )
    report = told(context)
    assert (report.state, report.waits_for, before.state) == ("failed", "", "waiting")
    assert report.error
    assert figures(report) == figures(before)
    assert (report.rows, report.running_total) == (4, 2)


def test_files_that_are_gone_and_rows_that_are_bad(
    priced: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task starts anew in the middle of a try, and is refused before it has a job."""
    operator = job(out, requests=rows(4), max_requests_per_batch=2)
    context = task_context(operator)

    def refused(*_: object) -> None:
        raise InvalidInputError("row 3: no text")

    def spoil() -> None:
        monkeypatch.setattr(Runner, "resume", lambda *_: False)
        monkeypatch.setattr(Runner, "prepare", refused)

    before = waits_once(operator, context, monkeypatch, spoil)
    report = told(context)
    assert (report.state, report.error) == ("failed", "row 3: no text")
    assert figures(report) == figures(before)


@pytest.mark.parametrize("stored", [None, "s3://elsewhere", {"rows": "many"}, RuntimeError("away")])
def test_no_report_to_take_them_from(server: DevServer, out: Path, stored: Any) -> None:
    """All figures are 0, as before, and the error is said."""
    operator = job(out, requests=[{"text": 1}], body={"input": "{missing}"})
    context = task_context(operator)

    def pull(**_: object) -> Any:
        if isinstance(stored, Exception):
            raise stored
        return stored

    context["ti"].xcom_pull = pull
    with pytest.raises(InvalidInputError):
        run_task(operator, context)
    assert (told(context).state, told(context).rows, told(context).running_total) == ("failed", 0, 0)


# -- how many are named --------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), st.integers(0, 3_000))
def test_a_report_stays_small(batch_id: str, count: int) -> None:
    """The page reads no larger one, whichever way Airflow stores it; whatever a service's ids look like."""
    from airflow_provider_openai_batches.plugin.jobs import MAX_REPORT, report_in

    most: dict[str, Any] = {
        "error": "\U0001f600" * 500,
        "waits_for": "\U0001f600" * 400,
        "conn_id": "\U0001f600" * 250,
    }
    report = JobReport(
        rows=2**53, answered=2**53, failed=2**53, at=1.7e9, **most, **_running([batch_id] * count)
    )
    assert report.running_total == count
    stored = json.dumps(json.dumps(msgspec.to_builtins(report)))
    assert len(stored) <= MAX_REPORT
    shown = report_in(stored)
    assert shown
    assert shown["running"] == [batch_id] * len(report.running)


def test_a_thousand_ids_of_the_service_are_named() -> None:
    ids = [f"batch_{number:032x}" for number in range(1_001)]
    assert _running(ids) == {"running": ids[:1_000], "running_total": 1_001}
