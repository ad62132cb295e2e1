"""Several files at once: in order, bounded, and over when one fails."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import MortalOperator, again, job, killed, results, rows
from support import run_task, until

from airflow_provider_openai_batches.inference.runner import Runner
from airflow_provider_openai_batches.inference.transfers import AT_ONCE, at_once

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def test_results_come_in_order_and_few_are_under_way() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02 * (5 - number % 5))
        with lock:
            under_way -= 1
        return number

    assert list(at_once(work, range(20))) == list(range(20))
    assert 1 < most <= AT_ONCE


def test_after_an_error_nothing_is_begun() -> None:
    """It is raised in its turn, when what was under way is over."""
    begun: list[int] = []
    ended: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("two")
        time.sleep(0.05)
        ended.append(number)
        return number

    found: list[int] = []
    with pytest.raises(ValueError, match="two"):
        found.extend(at_once(work, range(20)))
    assert sorted([*ended, 2]) == sorted(begun)
    assert len(begun) <= 2 + AT_ONCE + 1


def test_who_stops_early_begins_no_more() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return number

    assert next(at_once(work, range(100))) == 0
    assert len(begun) <= 1 + AT_ONCE


def test_no_item_is_begun_before_a_result_is_asked_for() -> None:
    begun: list[int] = []
    at_once(begun.append, range(3))
    assert begun == []


def test_files_are_transferred_at_the_same_time(server: DevServer, out: Path) -> None:
    """Each batch is still created alone and in its turn, the first one before another file is uploaded."""
    server.faults(
        [{"operation": name, "action": "delay", "seconds": 0.2, "times": None} for name in OPERATIONS]
    )
    run_task(job(out, requests=rows(16), max_requests_per_batch=2))
    assert len(results(out)) == 16
    stats = server.stats()
    assert (stats["requests"]["upload_file"], stats["requests"]["download_file"]) == (8, 8)
    assert 1 < stats["peak_in_flight"] <= AT_ONCE + 1
    assert [batch["metadata"]["airflow_tokens"] for batch in server.batches()]


OPERATIONS = ("upload_file", "download_file")


@pytest.mark.parametrize("operation", ["upload_file", "create_batch", "download_file"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_process_that_dies_among_several_transfers(
    server: DevServer, out: Path, operation: str, count: int
) -> None:
    """The next try finds what was uploaded and downloaded; nothing is paid twice."""
    operator = job(out, MortalOperator, requests=rows(16), max_requests_per_batch=2)
    killed(operator, operation, "after", count)
    again(operator)
    assert [row["custom_id"] for row in results(out)] == [f"row-{n}" for n in range(16)]
    assert {row["status"] for row in results(out)} == {"succeeded"}
    assert server.stats()["paid_more_than_once"] == 0
    until(lambda: all(batch["status"] == "completed" for batch in server.batches()))


@pytest.mark.parametrize("operation", ["upload_file", "download_file", "retrieve_batch", "create_batch"])
def test_one_of_several_transfers_fails_in_passing(server: DevServer, out: Path, operation: str) -> None:
    """The job pauses, and goes on with what is left."""
    fault = {"operation": operation, "action": "status", "status": 503, "times": 8, "skip": 2}
    server.faults([fault])
    run_task(job(out, requests=rows(16), max_requests_per_batch=2))
    assert {row["status"] for row in results(out)} == {"succeeded"}
    assert server.stats()["paid_more_than_once"] == 0


def test_files_that_are_gone_after_a_pause_are_uploaded_again(server: DevServer, out: Path) -> None:
    """They were uploaded ahead, and their creates were put off; the job waits in its worker."""
    busy = {"operation": "create_batch", "action": "status", "status": 429, "times": 40, "skip": 2}
    server.faults([busy])
    limits = {"max_requests_per_batch": 2, "max_enqueued_tokens": 1_000_000}
    operator = job(out, MortalOperator, requests=rows(16), deferrable=False, **limits)
    gone: list[str] = []
    advance = Runner.advance

    def advance_and_lose(runner: Runner) -> Any:
        wait = advance(runner)
        ahead = [record.uploaded for record in runner.records.by_shard.values() if record.uploaded]
        if ahead and not gone:
            gone.extend(ahead)
            for file_id in ahead:
                runner.submitter.service.delete_file(file_id)
            server.faults([])
        return wait

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "advance", advance_and_lose)
        run_task(operator)
    assert gone
    assert {row["status"] for row in results(out)} == {"succeeded"}
    assert server.stats()["paid_more_than_once"] == 0
