"""Jobs whose rows are asked live: all of them, the first ones, or those without an answer by some time."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import again, job, manifest, results, rows, waits
from support import run_task, until

from airflow_provider_openai_batches.exceptions import InvalidInputError, OpenAIBatchesError
from airflow_provider_openai_batches.operators.inference_faults import LastingError, UnusableInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

OVER = {"completed", "failed", "expired", "cancelled"}


def paid(server: DevServer) -> int:
    """How many answers were paid for, in batches and live."""
    stats = server.stats()
    assert stats["paid_more_than_once"] == stats["live"]["paid_more_than_once"] == 0
    return int(stats["request_lines_paid"] + stats["live"]["paid"])


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged until now, wherever this Airflow puts it."""
    caplog.set_level("INFO")
    return lambda: capfd.readouterr().out.splitlines() or caplog.messages


def assert_all(out: Path, server: DevServer, count: int) -> None:
    """Each row has its answer, in order, was paid once, and nothing runs."""
    found = results(out)
    assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(count)]
    assert {row["status"] for row in found} == {"succeeded"}
    assert [json.dumps(row["output"]).count(f"row {n}") for n, row in enumerate(found)] == [1] * count
    assert paid(server) == count
    assert all(batch["status"] in OVER for batch in server.batches())


def test_a_job_that_is_asked_live(server: DevServer, out: Path) -> None:
    summary = run_task(job(out, requests=rows(30), mode="live", max_requests_per_batch=7))
    assert_all(out, server, 30)
    assert server.batches() == []
    assert server.stats()["requests"].get("upload_file", 0) == 0
    assert summary["live"]["rows"] == 30
    assert summary["live"]["usage"] == summary["usage"] == manifest(out)["live"]["usage"]
    assert summary["live"]["times_batch_price"] == 2


def test_the_same_job_in_a_batch_says_nothing_of_live(server: DevServer, out: Path) -> None:
    assert run_task(job(out, requests=rows(3)))["live"] is None
    assert server.stats()["live"]["executed"] == 0


def test_what_has_no_answer_in_time_is_asked_live(server: DevServer, out: Path) -> None:
    """One batch is over, one never ends, and one was not submitted."""
    server.settings(batch_seconds_by_number=[0.05, 8, 8])
    operator = job(out, requests=rows(30), max_requests_per_batch=10, max_active_batches=2, answer_by=1.5)
    summary = run_task(operator)
    assert_all(out, server, 30)
    assert summary["live"]["rows"] == 30 - server.stats()["request_lines_paid"]
    assert 1 <= summary["live"]["rows"] <= 20


@pytest.mark.parametrize("then", ["fail", "keep"])
def test_what_has_no_answer_in_time(server: DevServer, out: Path, then: str) -> None:
    server.settings(batch_seconds_by_number=[0.05, 8, 8, 8])
    operator = job(
        out, requests=rows(30), max_requests_per_batch=10, max_active_batches=1, answer_by=1.5, then=then
    )
    if then == "fail":
        with pytest.raises(LastingError, match=r"\d+ of 30 rows had no answer by the time of answer_by"):
            run_task(operator)
        assert not (out / "manifest.json").exists()
    else:
        counts = run_task(operator)["counts"]
        assert 30 - counts["expired"] == counts["succeeded"] == server.stats()["request_lines_paid"] >= 10
    found = results(out)
    assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(30)]
    assert {row["status"] for row in found} == {"succeeded", "expired"}
    assert all(batch["status"] in OVER for batch in server.batches())
    assert server.stats()["live"]["executed"] == 0


def test_a_try_after_the_time_was_given_up(server: DevServer, out: Path) -> None:
    """With more time, or none to keep to, it asks for the rest in batches."""
    server.settings(batch_seconds_by_number=[0.05, 8, 8, 8])
    operator = job(
        out, requests=rows(20), max_requests_per_batch=5, max_active_batches=2, answer_by=1.2, then="fail"
    )
    with pytest.raises(LastingError):
        run_task(operator)
    server.settings(batch_seconds_by_number=[])
    again(operator, answer_by=None, then=None)
    assert_all(out, server, 20)


def test_everything_is_there_in_time(server: DevServer, out: Path) -> None:
    summary = run_task(job(out, requests=rows(9), answer_by=timedelta(hours=1), then="fail"))
    assert_all(out, server, 9)
    assert summary["live"] is None


def test_the_canary_goes_first(server: DevServer, out: Path, logged: Callable[[], list[str]]) -> None:
    summary = run_task(job(out, requests=rows(30), canary=4, max_requests_per_batch=10))
    assert_all(out, server, 30)
    assert summary["live"]["rows"] == 4
    assert server.stats()["live"]["executed"] == 4
    assert sorted(batch["request_counts"]["total"] for batch in server.batches()) == [6, 10, 10]
    said = [line[line.index("Canary") :] for line in logged() if "Canary" in line]
    assert [line.split(":")[0] for line in said] == ["Canary, row-0", "Canary, row-1", "Canary"]
    assert "4 succeeded" in said[2]
    assert f"{summary['live']['usage']['input_tokens'] / 4:,.0f} input" in said[2]
    assert "the whole job of 30 rows will have about" in said[2]


def test_progress_counts_the_canarys_rows_and_no_batch_of_it(server: DevServer, out: Path) -> None:
    server.settings(freeze=True)
    progress = next(waits(job(out, requests=rows(30), canary=4, max_requests_per_batch=13))).trigger.progress
    assert (progress["batches"], progress["finished"]) == (2, 0)
    assert (progress["total"], progress["completed"], progress["live"]) == (30, 4, 4)


def test_a_canary_that_fails_costs_no_more(server: DevServer, out: Path) -> None:
    """No batch is made and no retry is used; a later try asks nothing again."""
    operator = job(out, requests=rows(30, {0: "fail:400", 1: "fail:400"}), canary=2)
    with pytest.raises(
        LastingError, match=r"(?s)nothing was submitted.*Not one of 2 rows.*other 28 rows.*first row-0"
    ):
        run_task(operator)
    assert (server.batches(), server.stats()["live"]["executed"]) == ([], 2)
    with pytest.raises(LastingError, match="nothing was submitted"):
        again(operator)
    assert (server.batches(), server.stats()["live"]["executed"]) == ([], 2)


def test_a_canary_row_that_fails_in_passing_is_asked_again_in_a_batch(server: DevServer, out: Path) -> None:
    run_task(job(out, requests=rows(12, {1: "fail:503*9"}), canary=3, max_rounds=9))
    found = results(out)
    assert {row["status"] for row in found} == {"succeeded"}
    assert server.stats()["live"]["paid"] == 2


def test_a_canary_of_more_rows_than_there_are(
    server: DevServer, out: Path, logged: Callable[[], list[str]]
) -> None:
    run_task(job(out, requests=rows(5), canary=20))
    assert_all(out, server, 5)
    assert server.batches() == []
    assert any("all 5 rows are asked live" in line for line in logged())


def test_a_service_without_live_endpoints(
    server: DevServer, out: Path, logged: Callable[[], list[str]]
) -> None:
    """With a time to keep to it is said, and the rows are kept; otherwise the task fails."""
    server.settings(live=False, batch_seconds_by_number=[0.05, 8, 8, 8])
    ways: list[dict[str, Any]] = [{"mode": "live"}, {"canary": 2}]
    for number, given in enumerate(ways):
        with pytest.raises(LastingError, match=r"no live form of /v1/chat/completions"):
            run_task(job(out / str(number), requests=rows(4), **given))
    assert server.batches() == []
    summary = run_task(job(out, requests=rows(20), max_requests_per_batch=10, answer_by=1.5))
    assert summary["counts"]["succeeded"] == server.stats()["request_lines_paid"] >= 10
    assert summary["counts"]["expired"] == 20 - summary["counts"]["succeeded"] >= 1
    assert any("no live form" in line for line in logged())


def test_a_time_that_is_over(server: DevServer, out: Path) -> None:
    """The first try is refused before a row is read; a later one ends what the first one began."""
    begun = datetime.now(UTC)
    operator = job(out, requests=iter(()), answer_by=(begun - timedelta(hours=1)).isoformat())
    with pytest.raises(UnusableInputError, match=r"The time of answer_by, .* is over: nothing was sent"):
        run_task(operator)
    assert server.stats()["requests"] == {}
    server.settings(batch_seconds=8)
    operator = job(out, requests=rows(6), max_requests_per_batch=3, answer_by=begun + timedelta(hours=1))
    next(waits(operator))
    again(operator, answer_by=str(begun - timedelta(seconds=1)))
    assert_all(out, server, 6)
    assert {batch["status"] for batch in server.batches()} == {"cancelled"}


def test_a_task_that_is_cleared_has_its_time_anew(server: DevServer, out: Path) -> None:
    """A retry has not."""
    server.settings(batch_seconds=8)
    operator = job(out, requests=rows(4), answer_by=1.0, retries=1)
    next(waits(operator))
    begun = time.time()
    until(lambda: time.time() > begun + 1)
    wait = next(waits(operator, try_number=2, max_tries=2), None)
    assert wait is not None
    server.settings(batch_seconds=0.05)
    assert server.stats()["live"]["executed"] == 0
    again(operator)
    assert_all(out, server, 4)
    assert server.stats()["live"]["executed"] == 4


@pytest.mark.parametrize("given", [1.5, "1.5", timedelta(seconds=1.5), "time"])
def test_a_time_may_be_given_in_many_ways(server: DevServer, out: Path, given: Any) -> None:
    server.settings(batch_seconds=8)
    when = (datetime.now(UTC) + timedelta(seconds=2)).isoformat(" ") if given == "time" else given
    run_task(job(out, requests=rows(4), answer_by=when))
    assert_all(out, server, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"then": "live"}, "then='live' needs answer_by"),
        ({"then": "later", "answer_by": 60}, "then is 'later'"),
        ({"then": ["live"], "answer_by": 60}, "then is \\['live'\\]"),
        ({"answer_by": datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))}, "no such time"),
        ({"mode": "both"}, "mode is 'both'"),
        ({"mode": "live", "answer_by": 60}, "no meaning with mode='live'"),
        ({"canary": -1}, "canary is -1"),
        ({"canary": 1.5}, "canary is 1.5"),
        ({"answer_by": 0}, "answer_by is 0"),
        ({"answer_by": -60}, "answer_by is -60"),
        ({"answer_by": float("inf")}, "answer_by is inf"),
        ({"answer_by": float("nan")}, "answer_by is nan"),
        ({"answer_by": timedelta(0)}, "answer_by is 0"),
    ],
)
def test_what_is_refused_when_a_dag_is_parsed(out: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        job(out, requests=rows(1), **given)


@pytest.mark.parametrize("given", ["soon", "-5", "inf", "nan", "", "2026-13-01", "0001-01-01 00:00+09:00"])
def test_a_rendered_time_that_cannot_be_read(server: DevServer, out: Path, given: str) -> None:
    with pytest.raises(UnusableInputError, match="answer_by"):
        run_task(job(out, requests=iter(()), answer_by=given))
    assert server.stats()["requests"] == {}


def test_the_key_is_refused(server: DevServer, out: Path) -> None:
    operator = job(out, requests=rows(4), mode="live")
    server.settings(api_keys=["another"])
    with pytest.raises(OpenAIBatchesError, match="401"):
        run_task(operator)


@pytest.mark.parametrize("given", [{}, {"max_requests_per_batch": 2}, {"canary": 1}])
def test_a_request_that_no_batch_can_hold(server: DevServer, out: Path, given: dict[str, Any]) -> None:
    """It is refused before anything is submitted, with its row, its tokens and the limit."""
    table = rows(6)
    table[4]["text"] = "x" * 8_000
    said = r"row 4 .*has about 2,0\d\d tokens, but the enqueued-token limit of gpt-5-mini is 1,000"
    with pytest.raises(UnusableInputError, match=f"(?i){said}"):
        run_task(job(out, requests=table, max_enqueued_tokens=1_000, **given))
    assert server.stats()["requests"].get("upload_file", 0) == 0
    assert server.batches() == []


def test_a_job_that_is_asked_live_after_all(
    server: DevServer, out: Path, logged: Callable[[], list[str]]
) -> None:
    """What its batches have not answered yet is cancelled there; the log does not speak of a time."""
    server.settings(batch_seconds=8)
    operator = job(out, requests=rows(6), max_requests_per_batch=3)
    next(waits(operator))
    again(operator, mode="live")
    assert_all(out, server, 6)
    said = [line for line in logged() if "Batch batch_" in line and "cancel" in line]
    assert len(said) == 2
    assert all("its rows are asked live" in line for line in said)
