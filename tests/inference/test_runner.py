"""What the runner of a job decides, without a network: the service is a few dicts, and time is a number."""

from __future__ import annotations

import json
import logging
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_openai_batches.api.models import Batch, BatchErrorItem, BatchErrors, BatchRequestCounts
from airflow_provider_openai_batches.exceptions import (
    APIError,
    BatchFailed,
    BatchTimeout,
    CreateUncertainError,
    TransportError,
)
from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
from airflow_provider_openai_batches.idempotency.submit import BatchSpec, Submitter
from airflow_provider_openai_batches.inference.data.job import Limits
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.runner import Runner
from airflow_provider_openai_batches.inference.schedule import WaitFor
from airflow_provider_openai_batches.inference.settings import Settings
from airflow_provider_openai_batches.inference.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "/v1/chat/completions"
TOKEN_LIMIT = BatchErrors(
    [BatchErrorItem(code="token_limit_exceeded", message="Enqueued token limit reached")]
)
LOG = logging.getLogger("test")


class Service:
    """The methods of the hook that a job uses; batches change when a test says so."""

    recovery_seconds, stopped = 0.0, False

    def __init__(self) -> None:
        self.log = LOG
        self.now = 1_000.0
        self.files: dict[str, list[Any]] = {}
        self.numbers = count()  # several threads upload
        self.batches: dict[str, Batch] = {}
        self.listings, self.lag = 0, 0  # the first ``lag`` listings show nothing
        self.noted: list[object] = []
        self.fails: Exception | None = None  # a create
        self.breaks: Exception | None = None  # a download

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def upload_file(self, source: Path, name: str, expires_after: object) -> Any:
        file_id = f"file-{next(self.numbers)}"
        self.files[file_id] = [json.loads(line) for line in source.read_bytes().splitlines()]
        return type("File", (), {"id": file_id, "bytes": 1})

    def create_batch(
        self, file: str, endpoint: str, window: str, metadata: dict[str, str], *_: object, **__: object
    ) -> Batch:
        if self.fails:
            raise self.fails
        self.set(f"batch-{len(self.batches)}", "validating", input_file_id=file, metadata=metadata)
        return next(reversed(self.batches.values()))

    def set(self, batch_id: str, status: str, **fields: Any) -> None:
        known = self.batches.get(batch_id)
        given = {} if known is None else {"input_file_id": known.input_file_id, "metadata": known.metadata}
        times = {"created_at": int(self.now), "expires_at": int(self.now) + 86_400}
        self.batches[batch_id] = Batch(**{"id": batch_id, "status": status, **times, **given, **fields})

    def answer(self, batch_id: str, *failing: int) -> None:
        """Complete a batch; the requests with these places in its file fail with a 500."""
        requests = self.files[str(self.batches[batch_id].input_file_id)]
        bad = {"status_code": 500, "body": {"error": {"message": "try again"}}}
        good = {"status_code": 200, "body": {"choices": [{"message": {"content": "hello"}}]}}
        self.files[f"{batch_id}-output"] = [
            {"custom_id": request["custom_id"], "response": bad if place in failing else good}
            for place, request in enumerate(requests)
        ]
        counts = BatchRequestCounts(len(requests), len(requests) - len(failing), len(failing))
        self.set(batch_id, "completed", output_file_id=f"{batch_id}-output", request_counts=counts)

    def retrieve_batch(self, batch_id: str) -> Batch:
        return self.batches[batch_id]

    def cancel_batch(self, batch_id: str) -> Batch:
        self.set(batch_id, "cancelled")
        return self.batches[batch_id]

    def iter_batches_since(self, since: float) -> list[Batch]:
        self.listings += 1
        return list(reversed(self.batches.values())) if self.listings > self.lag else []

    def settled(self, batch: Batch) -> Batch:
        return batch

    def iter_files_since(self, since: float) -> list[Any]:
        return []

    def note_outputs(self, *locations: object) -> None:
        self.noted.extend(locations)

    def download_file(self, file_id: str, destination: Path) -> None:
        if self.breaks:
            raise self.breaks
        destination.write_text("".join(json.dumps(line) + "\n" for line in self.files[file_id]))


def runner(
    service: Service, folder: Path, rows: int = 4, since: float | None = None, **settings: Any
) -> Runner:
    """A prepared runner; two rows make a batch."""
    asked = {name: settings.pop(name) for name in BatchSpec.__struct_fields__ if name in settings}
    spec = BatchSpec(**{"endpoint": ENDPOINT, **asked})
    given: dict[str, Any] = {"spec": spec, "limits": Limits(max_requests=2), **settings}
    task = TaskIdentity("deployment", "dag", "run", "task")
    hook: Any = service
    submitter = Submitter(hook, task, None, LOG)
    new = Runner(
        Settings(**given), Workspace(folder, "me"), submitter, LOG, clock=lambda: service.now, since=since
    )
    assert new.prepare(requests_from([f"row {n}" for n in range(rows)], endpoint=ENDPOINT, model="m")) is None
    return new


def hear(job: Runner, service: Service) -> bool:
    return job.heard({batch.id: batch.status for batch in service.batches.values()})


@pytest.fixture
def service() -> Service:
    return Service()


def test_from_rows_to_results(service: Service, tmp_path: Path) -> None:
    """Submit, wait for all batches, ask again what failed for the moment, wait for that, finish."""
    job = runner(service, tmp_path)
    first = job.advance()
    assert first == WaitFor(["batch-0", "batch-1"], 1_300.0, "FIRST_EXCEPTION")  # 5 polls: they are validated
    service.answer("batch-0", 1)
    service.answer("batch-1")
    assert not hear(job, service)
    second = job.advance()
    assert second is not None
    assert second.batch_ids == ["batch-2"]
    assert job.progress()["round"] == 1
    service.answer("batch-2")
    hear(job, service)
    assert job.advance() is None
    summary = job.finish()
    assert (summary["counts"]["succeeded"], summary["rounds"]) == (4, 1)
    assert service.noted == [tmp_path]
    assert service.listings == 0  # nothing was left by an earlier try, so nothing is looked for


def test_what_ends_a_wait(service: Service, tmp_path: Path) -> None:
    """
    The first batch that left something open, the last batch, or the deadline.

    Any batch is enough if shards wait for its place, or if its results may expire.
    """
    job = runner(service, tmp_path / "all")
    job.advance()
    for batch_id in service.batches:
        service.set(batch_id, "in_progress")
    hear(job, service)
    assert job.advance() == WaitFor(["batch-0", "batch-1"], None, "FIRST_EXCEPTION")
    few = runner(service, tmp_path / "few", max_active_batches=1, deadline_seconds=50.0).advance()
    assert few == WaitFor(["batch-2"], 1_050.0, "FIRST_COMPLETED")
    short = runner(service, tmp_path / "short", output_expires_after=3_600).advance()
    assert short is not None
    assert short.return_when == "FIRST_COMPLETED"


@pytest.mark.parametrize(("seconds", "goes_on"), [(1, False), (30, True)])
def test_a_last_batch_that_ends_while_others_are_collected_is_not_waited_for(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, *, goes_on: bool
) -> None:
    job = runner(service, tmp_path, rows=6)
    job.advance()
    service.answer("batch-0")
    service.answer("batch-1")
    hear(job, service)
    download = service.download_file

    def slow(file_id: str, destination: Path) -> None:
        service.sleep(seconds)
        if file_id == "batch-1-output":
            service.answer("batch-2")
        download(file_id, destination)

    monkeypatch.setattr(service, "download_file", slow)
    wait = job.advance()
    if not goes_on:
        assert wait is not None
        assert wait.batch_ids == ["batch-2"]
        return
    assert wait is None
    assert job.finish()["counts"]["succeeded"] == 6


def test_a_last_look_that_fails_is_no_trouble(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = runner(service, tmp_path)
    job.advance()
    service.answer("batch-0")
    hear(job, service)
    retrieve, download = service.retrieve_batch, service.download_file

    def fails_for_the_other(batch_id: str) -> Batch:
        if batch_id == "batch-1":
            raise APIError("busy", status=503)
        return retrieve(batch_id)

    def slow(file_id: str, destination: Path) -> None:
        service.sleep(30)
        download(file_id, destination)

    monkeypatch.setattr(service, "retrieve_batch", fails_for_the_other)
    monkeypatch.setattr(service, "download_file", slow)
    wait = job.advance()
    assert wait is not None
    assert wait.batch_ids == ["batch-1"]


def test_when_the_time_is_up(service: Service, tmp_path: Path) -> None:
    """An hour after the batches' windows, or after the given time, nothing more is submitted."""
    job = runner(service, tmp_path / "own")
    job.advance()
    service.now += 86_400 + 3_599
    assert not hear(job, service)
    service.now += 1
    assert hear(job, service)
    late = runner(service, tmp_path / "told", deadline_seconds=50.0, max_active_batches=1)
    late.advance()
    service.answer("batch-2")
    service.now += 50
    assert late.heard({"batch-2": "completed"})  # a shard was not submitted
    assert late.advance() == WaitFor([], service.now, "FIRST_COMPLETED")
    assert late.heard({})
    assert len(service.batches) == 3


def test_rounds_end(service: Service, tmp_path: Path) -> None:
    """After max_rounds the rows stay failed."""
    job = runner(service, tmp_path, rows=2, max_rounds=1)
    for batch_id, answered in (("batch-0", (1,)), ("batch-1", (0,))):
        job.advance()
        service.answer(batch_id, *answered)
        hear(job, service)
    assert job.advance() is None
    assert job.finish()["counts"]["failed"] == 1


def test_a_failure_that_may_pass_is_a_wait(service: Service, tmp_path: Path) -> None:
    """Longer each time; any other failure is raised. What is known is saved in either case."""
    job = runner(service, tmp_path)
    service.fails = TransportError("no route", sent=False)
    assert job.advance() == WaitFor([], service.now + 60, "ALL_COMPLETED")
    service.now += 60
    assert job.advance() == WaitFor([], service.now + 120, "ALL_COMPLETED")
    hurried = runner(service, tmp_path / "hurried", deadline_seconds=50.0)
    assert hurried.advance() == WaitFor([], service.now + 50, "ALL_COMPLETED")
    job.workspace.kept.joinpath("batches.json").unlink()
    service.now += 120
    service.fails = APIError("no", status=400)
    with pytest.raises(APIError, match="no"):
        job.advance()
    assert job.workspace.kept.joinpath("batches.json").exists()


@pytest.mark.parametrize("limit", ["deadline_seconds", "must_end"])
def test_results_that_do_not_come_are_not_waited_for_after_the_time_is_up(
    service: Service, tmp_path: Path, limit: str
) -> None:
    """Nothing runs then, so no wait could end; each would be followed at once by another one."""
    job = runner(service, tmp_path, rows=2, **{limit: 1_050.0 if limit == "must_end" else 50.0})
    job.advance()
    service.answer("batch-0")
    assert not hear(job, service)
    service.breaks = TransportError("no route", sent=False)
    assert job.advance() == WaitFor([], 1_050.0, "ALL_COMPLETED")
    service.now = 1_050.0
    assert not hear(job, service)
    with pytest.raises(BatchTimeout, match="no route"):
        job.advance()
    assert job.workspace.kept.joinpath("batches.json").exists()


def test_a_create_whose_outcome_is_unknown_is_looked_for(service: Service, tmp_path: Path) -> None:
    """The list is read before the batch is created again."""
    job = runner(service, tmp_path, rows=2)
    service.fails = CreateUncertainError("lost")
    assert job.advance() == WaitFor([], service.now + 60, "ALL_COMPLETED")
    key = next(iter(job.submitter.pending))
    service.set("stored", "in_progress", metadata={"airflow_key": key})
    service.now += 60
    wait = job.advance()
    assert wait is not None
    assert wait.batch_ids == ["stored"]
    assert service.listings > 0


def test_the_token_limit_holds_batches_back(service: Service, tmp_path: Path) -> None:
    """A rejected batch is created again, from the same file, when another one is over."""
    job = runner(service, tmp_path)
    job.advance()
    service.set("batch-1", "failed", errors=TOKEN_LIMIT)
    hear(job, service)
    assert job.advance() == WaitFor(["batch-0"], 1_120.0, "FIRST_COMPLETED")
    service.answer("batch-0")
    hear(job, service)
    wait = job.advance()
    assert wait is not None
    assert wait.batch_ids == ["batch-2"]
    assert service.batches["batch-2"].input_file_id == service.batches["batch-1"].input_file_id
    service.set("batch-2", "failed", errors=TOKEN_LIMIT)
    hear(job, service)
    assert job.advance() == WaitFor([], service.now + 60, "FIRST_COMPLETED")  # others use up the limit


def test_a_rejected_batch_ends_the_job(service: Service, tmp_path: Path) -> None:
    """Nothing more is submitted, neither the shards that wait nor another round."""
    job = runner(service, tmp_path, rows=6, max_active_batches=2)
    job.advance()
    service.set("batch-0", "failed")
    service.answer("batch-1", 0)
    hear(job, service)
    assert job.advance() is None
    assert job.progress()["round"] == 0
    with pytest.raises(BatchFailed, match="rejected 1 of 3 batches, and 1 were not submitted"):
        job.finish()
    assert len(service.batches) == 2


def test_the_next_try_looks_for_batches_once(service: Service, tmp_path: Path) -> None:
    """It takes up what it finds, cancels what nobody asked for, and does not list the batches again."""
    runner(service, tmp_path).advance()
    key = str((service.batches["batch-0"].metadata or {})["airflow_key"])
    service.set("outdated", "in_progress", metadata={"airflow_key": key[:-1] + "-"})
    tmp_path.joinpath("_job").rename(tmp_path / "lost")
    job = runner(service, tmp_path, since=service.now)
    wait = job.advance()
    assert wait is not None
    assert sorted(wait.batch_ids) == ["batch-0", "batch-1"]
    assert service.batches["outdated"].status == "cancelled"
    job.advance()
    assert service.listings == 1


def test_the_list_may_lag(service: Service, tmp_path: Path) -> None:
    """It is read again before the job submits a batch that may already exist."""
    runner(service, tmp_path, rows=2).advance()
    tmp_path.joinpath("_job").rename(tmp_path / "lost")
    service.recovery_seconds, service.lag = 5.0, 2
    wait = runner(service, tmp_path, rows=2, since=service.now).advance()
    assert wait is not None
    assert wait.batch_ids == ["batch-0"]


def test_the_file_of_a_rejected_batch_is_used_again(service: Service, tmp_path: Path) -> None:
    """Even if the records are lost."""
    runner(service, tmp_path, rows=2).advance()
    service.set("batch-0", "failed", errors=TOKEN_LIMIT)
    tmp_path.joinpath("_job").rename(tmp_path / "lost")
    wait = runner(service, tmp_path, rows=2, since=service.now).advance()
    assert wait is not None
    assert wait.batch_ids == ["batch-1"]
    assert len(service.files) == 1


def test_a_batch_is_over_when_the_service_says_so(service: Service, tmp_path: Path) -> None:
    """A wait may have seen more than the next answer shows."""
    job = runner(service, tmp_path, rows=2)
    job.advance()
    job.heard({"batch-0": "completed"})
    wait = job.advance()
    assert wait is not None
    assert wait.batch_ids == ["batch-0"]


def test_a_try_with_nothing_left_to_ask_cancels_what_is_outdated(service: Service, tmp_path: Path) -> None:
    """An earlier try downloaded all results, and left a batch for other rows running."""
    job = runner(service, tmp_path, rows=2)
    job.advance()
    service.answer("batch-0")
    hear(job, service)
    assert job.advance() is None
    key = str((service.batches["batch-0"].metadata or {})["airflow_key"])
    service.set("outdated", "in_progress", metadata={"airflow_key": key[:-1] + "-"})
    assert runner(service, tmp_path, rows=2, since=service.now).advance() is None
    assert service.batches["outdated"].status == "cancelled"


def test_a_second_process_goes_on(service: Service, tmp_path: Path) -> None:
    """It needs only the name of the job's directory. It knows the running batches, so a kill cancels them."""
    job = runner(service, tmp_path)
    job.advance()
    second = Runner(job.settings, Workspace(tmp_path, "me"), job.submitter, LOG, clock=lambda: service.now)
    second.submitter.known.clear()
    assert not second.resume("")
    assert not second.resume("another")
    assert second.resume(job.workspace.name)
    assert second.submitter.known == {"batch-0", "batch-1"}
    assert second.cancel() == ["batch-0 is cancelled", "batch-1 is cancelled"]
