"""Whatever ends a try of a job with live rows: the next one goes on, and pays nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import BODY, Crash, MortalOperator, again, job, rows, waits
from support import fresh, run_task, task_context, until

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency.submit import Submitter
from airflow_provider_openai_batches.inference import workspace
from airflow_provider_openai_batches.inference.live_files import LiveFiles
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

OVER = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the process die at the nth live answer, once; nothing is stored from then on."""
    left = 0
    dead: set[LiveFiles] = set()
    write, put = LiveFiles.write, LiveFiles._put

    async def written(files: LiveFiles, line: bytes) -> None:
        nonlocal left
        if left:
            left -= 1
            if not left:
                files._pending.clear()
                dead.add(files)
                raise Crash
        await write(files, line)

    def stored(files: LiveFiles, lines: list[bytes]) -> None:
        if files not in dead:
            put(files, lines)

    def die(number: int) -> None:
        nonlocal left
        left = number

    monkeypatch.setattr(LiveFiles, "write", written)
    monkeypatch.setattr(LiveFiles, "_put", stored)
    return die


def outputs(out: Any) -> list[dict[str, Any]]:
    parts = sorted(as_path(str(out)).glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]


def paid(server: DevServer) -> int:
    stats = server.stats()
    return int(stats["request_lines_paid"] + stats["live"]["paid"])


def good(out: Any, server: DevServer, count: int, under_way: int = 0) -> None:
    """Each row has its answer, in order; no more was paid twice than was under way at the kills."""
    found = outputs(out)
    assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(count)]
    assert {row["status"] for row in found} == {"succeeded"}
    assert count <= paid(server) <= count + under_way
    assert all(batch["status"] in OVER for batch in server.batches())


@pytest.fixture(params=["disk", "store", "full store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "full store":
        monkeypatch.setattr(workspace, "SPARE_BYTES", 0)
    return str(tmp_path / "out") if request.param == "disk" else f"memory://live/{uuid.uuid4().hex}"


def stored(uri: str) -> set[str]:
    """The rows whose live answers a job's place has."""
    files = as_path(uri).glob("_job/*/live-*.jsonl")
    lines = (line for path in files for line in path.read_bytes().splitlines(keepends=True))
    return {json.loads(line)["custom_id"] for line in lines if line.endswith(b"}\n")}


def test_two_kills_while_rows_are_asked_live(server: DevServer, place: str, die_at: Any) -> None:
    operator = job(place, requests=rows(40), mode="live", max_requests_per_batch=7)
    for number in (1, 2):
        die_at(10)
        with pytest.raises(Crash):
            run_task(fresh(operator), task_context(operator, try_number=number))
    until(lambda: server.stats()["in_flight"] == 0)
    before, known = server.stats()["live"]["executed"], stored(place)
    assert known
    again(operator, 3)
    assert server.stats()["live"]["executed"] == before + 40 - len(known)
    good(place, server, 40, under_way=2 * 40)


def test_the_canary_in_a_place(server: DevServer, place: str) -> None:
    run_task(job(place, requests=rows(40), canary=5, max_requests_per_batch=7))
    good(place, server, 40)
    assert server.stats()["live"]["executed"] == 5


def test_half_a_line_and_more_time(server: DevServer, out: Path, die_at: Any) -> None:
    """The row is asked again, in a batch: nothing of its answer can be read."""
    server.settings(batch_seconds=8)
    operator = job(out, requests=rows(12), answer_by=1.0)
    die_at(6)
    with pytest.raises(Crash):
        run_task(operator)
    (file,) = out.glob("_job/*/live-*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    server.settings(batch_seconds=0.05)
    again(operator, answer_by=None, then=None)
    good(out, server, 12, under_way=12)
    assert not (out / "unreadable.txt").exists()


@pytest.mark.parametrize(("then", "at_once"), [("fail", False), ("keep", False), ("fail", True)])
def test_a_batch_that_was_cancelled_for_the_time_is_no_round(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch, then: str, *, at_once: bool
) -> None:
    """Its rows were not really asked, whether it is over when the cancel is answered or later."""
    server.settings(batch_seconds=8)
    cancel = OpenAIBatchesHook.cancel_batch

    def cancelled(hook: OpenAIBatchesHook, batch_id: str) -> Any:
        server.force(batch_id, status="cancelled", after=0.0)
        return cancel(hook, batch_id)

    if at_once:
        monkeypatch.setattr(OpenAIBatchesHook, "cancel_batch", cancelled)
    given: dict[str, Any] = {"answer_by": 1.0, "then": then, "max_rounds": 0, "max_requests_per_batch": 4}
    operator = job(out, requests=rows(12), **given)
    with pytest.raises(OpenAIBatchesError, match="12"):
        run_task(operator)
    server.settings(batch_seconds=0.05)
    again(operator, answer_by=None, then=None)
    good(out, server, 12)


@pytest.mark.parametrize("status", [400, 405, 409, 500])
def test_a_batch_that_cannot_be_cancelled(server: DevServer, out: Path, status: int) -> None:
    """It is cancelled later, or waited for where the service does not cancel it at all."""
    server.settings(batch_seconds=2.5)
    times = 12 if status in {409, 500} else None
    server.faults([{"operation": "cancel_batch", "action": "status", "status": status, "times": times}])
    run_task(job(out, MortalOperator, requests=rows(12), answer_by=0.6, max_requests_per_batch=4))
    good(out, server, 12)


def test_the_key_is_taken_back_before_the_time(server: DevServer, out: Path) -> None:
    """That is said, not waited for."""
    server.settings(batch_seconds=8)
    operator = job(out, MortalOperator, requests=rows(4), answer_by=0.6)
    server.faults([{"operation": "cancel_batch", "action": "status", "status": 401, "times": None}])
    with pytest.raises(OpenAIBatchesError, match="401"):
        run_task(operator)


def test_the_files_are_lost_after_the_canary(server: DevServer, out: Path) -> None:
    """The batches show that it was good; its rows are asked in a batch, as are those that were left open."""
    server.settings(batch_seconds_by_number=[0.05] * 4 + [2])
    faults = {7: "fail:429*1", 12: "fail:429*1"}
    operator = job(out, requests=rows(20, faults), canary=3, max_requests_per_batch=5)
    for _ in waits(operator):
        if len(server.batches()) > 4:
            break
    shutil.rmtree(out)
    again(operator)
    good(out, server, 20, under_way=3)
    assert server.stats()["live"]["executed"] == 3


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_time_shorter_than_a_poll(server: DevServer, out: Path, *, deferrable: bool) -> None:
    """It is kept to, whoever waits."""
    server.settings(batch_seconds=20)
    given: dict[str, Any] = {"answer_by": 0.3, "poll_interval": 2.5, "deferrable": deferrable}
    run_task(job(out, MortalOperator, requests=rows(6), max_requests_per_batch=3, **given))
    good(out, server, 6)


def test_batches_of_another_airflow(server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are waited for beyond the time, and their answers used."""
    server.settings(batch_seconds=1.5)
    monkeypatch.setattr(Submitter, "is_own", lambda *_: False)
    operator = job(out, requests=rows(6), max_requests_per_batch=3, answer_by=60)
    next(waits(operator))
    again(operator, answer_by=0.2)
    good(out, server, 6)
    assert {batch["status"] for batch in server.batches()} == {"completed"}


@pytest.mark.parametrize("stage", ["validating", "in_progress", "finalizing", "cancelling"])
def test_the_time_passes_in_any_stage_of_a_batch(server: DevServer, out: Path, stage: str) -> None:
    server.settings(batch_seconds=20)
    operator = job(out, MortalOperator, requests=rows(6), max_requests_per_batch=3, answer_by=0.5)
    waiting = waits(operator)
    next(waiting)
    for batch in server.batches():
        server.force(batch["id"], status=stage, stuck=True)

    def end() -> None:
        for batch in server.batches():
            server.force(batch["id"], status="cancelled", after=0.5)

    timer = threading.Timer(1.0, end)
    timer.start()
    for _ in waiting:
        pass
    timer.join()
    good(out, server, 6)


def test_embeddings_in_time(server: DevServer, out: Path) -> None:
    server.settings(batch_seconds=8)
    body = {"model": "text-embedding-3-small", "input": "{text}"}
    given: dict[str, Any] = {
        "endpoint": "/v1/embeddings",
        "body": body,
        "answer_by": 0.5,
        "max_requests_per_batch": 3,
    }
    summary = run_task(job(out, requests=rows(8), canary=2, **given))
    good(out, server, 8)
    assert summary["live"]["rows"] == 8


def test_a_canary_of_two_models(server: DevServer, place: str) -> None:
    given = [{**row, "model": f"gpt-5-{'nano' if n % 3 else 'mini'}"} for n, row in enumerate(rows(20))]
    body = {**BODY, "model": "{model}"}
    run_task(job(place, requests=given, body=body, canary=5, max_requests_per_batch=4, id_column="key"))
    found = outputs(place)
    assert [row["custom_id"] for row in found] == [f"k{n}" for n in range(20)]
    assert (paid(server), server.stats()["live"]["executed"]) == (20, 5)


def test_kept_and_cleared(server: DevServer, out: Path) -> None:
    """The manifest says that the job is complete: a clear asks nothing more."""
    server.settings(batch_seconds_by_number=[0.05, 8])
    operator = job(out, requests=rows(6), max_requests_per_batch=3, answer_by=1.0, then="keep")
    assert run_task(operator)["counts"]["expired"] == 3
    summary = again(operator)
    assert (summary["counts"]["expired"], paid(server)) == (3, 3)


def test_an_upgrade_while_a_job_waits(server: DevServer, out: Path) -> None:
    """Its records say nothing of live rows."""
    server.settings(batch_seconds=8)
    operator = job(out, requests=rows(6), max_requests_per_batch=3, answer_by=0.6)
    waiting = waits(operator)
    next(waiting)
    (file,) = out.glob("_job/*/batches.json")
    told = json.loads(file.read_bytes())
    for name in ("counts_from", "has_live", "has_canary", "is_late", "live_rows"):
        del told[name]
    file.write_text(json.dumps(told))
    for _ in waiting:
        pass
    good(out, server, 6)


class TimeIsUpError(BaseException):
    """Stands for what Airflow raises when the time of ``execution_timeout`` has passed."""


@pytest.mark.usefixtures("_alarm")
def test_an_execution_timeout_in_a_callback_of_the_loop(
    server: DevServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the try, although asyncio would forget it there; what is under way is still answered."""
    write, written = LiveFiles.write, []

    def callback() -> None:
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0.1)

    async def counting(files: LiveFiles, line: bytes) -> None:
        written.append(line)
        if len(written) == 10:
            asyncio.get_running_loop().call_soon(callback)
        await write(files, line)

    monkeypatch.setattr(LiveFiles, "write", counting)
    operator = job(place, requests=rows(200), mode="live")
    with pytest.raises(TimeIsUpError):
        run_task(operator)
    assert 10 <= len(written) < 200
    again(operator)
    good(place, server, 200)


@pytest.fixture
def _alarm() -> Iterator[None]:
    def time_is_up(*_: object) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, time_is_up)
    yield
    signal.signal(signal.SIGALRM, before)
