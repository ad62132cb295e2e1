"""Whatever dies, whenever: the next try pays nothing twice and loses nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from inferencekit import Crash, MortalOperator, again, job, killed, results, rows, waits
from support import fresh, resume, run_task, task_context, until

from airflow_provider_openai_batches.api import models
from airflow_provider_openai_batches.exceptions import InvalidInputError, OpenAIBatchesError, TaskKilled
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

FAULTS = {1: "fail:429*1", 4: "fail:500*2", 7: "fail:503*1", 9: "fail:400"}


def good(out: Path, server: DevServer) -> None:
    """Every row has its result, in order; none was paid twice, and nothing runs."""
    found = results(out)
    assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(12)]
    assert [row["status"] for row in found] == ["failed" if n == 9 else "succeeded" for n in range(12)]
    stats = server.stats()
    assert stats["paid_more_than_once"] == 0
    assert stats["batches"]["running"] == 0
    assert not (out / "_job").exists()


def mortal(out: Path, **kwargs: Any) -> Any:
    return job(out, MortalOperator, requests=rows(12, FAULTS), max_requests_per_batch=5, **kwargs)


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        *(("upload_file", n) for n in (1, 3, 4)),
        *(("create_batch", n) for n in (1, 2, 3, 4, 5)),
        *(("retrieve_batch", n) for n in (1, 4)),
        *(("download_file", n) for n in (1, 2, 5, 7)),
    ],
)
@pytest.mark.parametrize("moment", ["before", "after", "lost"])
def test_a_crash_at_any_call(server: DevServer, out: Path, operation: str, count: int, moment: str) -> None:
    """The next try takes up each batch, even if the work directory was lost with its worker."""
    operator = mortal(out)
    killed(operator, operation, "before" if moment == "before" else "after", count)
    if moment == "lost":
        shutil.rmtree(out)
    assert again(operator)["counts"]["succeeded"] == 11
    good(out, server)


def test_an_answer_that_is_no_list_is_no_empty_list(server: DevServer, out: Path) -> None:
    """The batches that a gateway's ``{}`` does not show are looked for again, and none is paid twice."""
    operator = mortal(out)
    killed(operator, "create_batch", "after", 2)
    shutil.rmtree(out)
    odd = {"operation": "list_batches", "action": "status", "status": 200, "body": {"status": "ok"}}
    server.faults([{**odd, "times": 2}])
    assert again(operator)["counts"]["succeeded"] == 11
    good(out, server)


def test_a_service_whose_batches_were_created_at_0(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no time: as one, it ended the search for earlier batches before the first."""
    convert = models._convert_times

    def at_zero(found: Any) -> None:
        if isinstance(found, models.Batch):
            msgspec.structs.force_setattr(found, "created_at", 0)
        convert(found)

    monkeypatch.setattr(models, "_convert_times", at_zero)
    operator = mortal(out)
    killed(operator, "create_batch", "after", 2)
    shutil.rmtree(out)
    assert again(operator)["counts"]["succeeded"] == 11
    good(out, server)


def deferred(operator: Any, **context: Any) -> TaskDeferred:
    """Run a task until it waits."""
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(task_context(operator, **context))
    return raised.value


def test_a_resume_without_the_work_directory(server: DevServer, out: Path) -> None:
    """Another worker does not have it: the rows are read again, the batches found."""
    for number, _ in enumerate(waits(mortal(out))):
        if number < 2:
            shutil.rmtree(out)
    good(out, server)


def test_a_task_that_is_cleared_while_it_waits(server: DevServer, out: Path) -> None:
    """The running batches are taken up; nothing is submitted."""
    server.settings(batch_seconds=0.5)
    operator = mortal(out)
    deferred(operator)
    before = server.stats()["requests"]
    deferred(fresh(operator), try_number=2)
    after = server.stats()["requests"]
    assert after["create_batch"] == before["create_batch"] == 3
    assert after["upload_file"] == before["upload_file"] == 3
    again(operator, try_number=3)
    good(out, server)


@pytest.mark.parametrize("lost", [False, True])
def test_a_kill_and_a_clear(server: DevServer, out: Path, *, lost: bool) -> None:
    """What was done before the kill is kept, the rest is asked again, and the round does not count."""
    server.settings(batch_seconds=2)
    operator = mortal(out, max_rounds=2)
    deferral = deferred(operator)
    for number, batch_id in enumerate(deferral.trigger.batch_ids):
        server.force(batch_id, status="cancelled", after=[0.0, 0.4, 1.0][number])
    if lost:
        shutil.rmtree(out)
    server.settings(batch_seconds=0.05)
    summary = again(operator)
    assert summary["rounds"] == 2
    good(out, server)


def test_a_kill_at_the_worker_cancels_every_batch(server: DevServer, out: Path) -> None:
    """Both the batches of this try and those that an earlier try left; after a resume too."""
    server.settings(freeze=True)
    operator = mortal(out)
    deferral = deferred(operator)
    second = fresh(operator)
    deferred(second, try_number=2)
    second.on_kill()
    assert {batch["status"] for batch in server.batches()} <= {"cancelling", "cancelled"}
    server.reset()
    server.settings(freeze=True)
    deferral = deferred(operator)
    resumed = fresh(operator)
    running = dict.fromkeys(deferral.trigger.batch_ids, "validating")
    event = {"status": "finished", "message": "", "batches": running}
    with pytest.raises(TaskDeferred):
        resume(resumed, task_context(resumed), event, deferral.kwargs)
    resumed.on_kill()
    assert {batch["status"] for batch in server.batches()} <= {"cancelling", "cancelled"}


def test_a_kill_between_two_submissions_submits_no_more(server: DevServer, out: Path) -> None:
    """The signal comes while the second shard is on its way."""
    server.settings(freeze=True)

    class Killed(MortalOperator):
        pass

    operator = job(out, Killed, requests=rows(12), max_requests_per_batch=5)
    create = operator.hook.create_batch

    def create_and_be_killed(*args: Any, **kwargs: Any) -> Any:
        batch = create(*args, **kwargs)
        if len(server.batches()) == 2:
            operator.on_kill()
        return batch

    operator.hook.create_batch = create_and_be_killed
    with pytest.raises(TaskKilled):
        operator.execute(task_context(operator))
    assert len(server.batches()) == 2
    assert {batch["status"] for batch in server.batches()} <= {"cancelling", "cancelled"}


def test_a_changed_input(server: DevServer, out: Path) -> None:
    """Unchanged shards are taken up, batches of outdated ones are cancelled, and new ones are submitted."""
    server.settings(batch_seconds=3)  # longer than a busy machine takes to cancel one
    operator = mortal(out)
    deferred(operator)
    changed = rows(12, FAULTS)
    changed[11]["text"] = "another question"
    again(operator, requests=changed)
    good(out, server)
    assert [batch["status"] for batch in server.batches()[:3]] == ["completed", "completed", "cancelled"]
    assert results(out)[11]["output"].endswith("another question")


def test_an_answer_that_is_lost(server: DevServer, out: Path) -> None:
    """Each create is cut off after its batch was stored; there is still only one batch per shard."""
    server.faults([{"operation": "create_batch", "action": "drop_after", "times": 3}])
    run_task(mortal(out))
    good(out, server)


@pytest.mark.parametrize("operation", ["upload_file", "create_batch", "retrieve_batch", "download_file"])
def test_an_outage_uses_up_no_try(
    server: DevServer, out: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the hook's own patience: the task waits and goes on."""
    given = json.loads(server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"])
    given["extra"] = {"max_attempts": 1}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", json.dumps(given))
    server.faults([{"operation": operation, "action": "status", "status": 503, "times": 4, "skip": 1}])
    run_task(mortal(out))
    good(out, server)


def test_a_create_whose_fate_is_unknown(server: DevServer, out: Path) -> None:
    """Answer lost, list broken: the task waits, finds it in the list, and goes on."""
    server.faults(
        [
            {"operation": "create_batch", "action": "drop_after", "times": 1, "skip": 1},
            {"operation": "list_batches", "action": "status", "status": 503, "times": None},
        ]
    )
    stored = []
    for _ in waits(mortal(out)):
        server.clear_faults()
        stored.append(len(server.batches()))
    assert stored[0] == 2
    assert stored[1] in {3, 4}  # the fourth asks again what one of the others left open
    good(out, server)


def test_results_that_were_fetched_are_not_fetched_again(server: DevServer, out: Path) -> None:
    """They may be gone at the service by then."""
    operator = mortal(out)
    killed(operator, "download_file", "after", 4)
    before = server.stats()["requests"]["download_file"]
    again(operator)
    good(out, server)
    files = sum(bool(b["output_file_id"]) + bool(b["error_file_id"]) for b in server.batches())
    assert server.stats()["requests"]["download_file"] == files
    assert 4 <= before < 8  # as many are downloaded at once


def test_a_crash_while_input_files_are_deleted(server: DevServer, out: Path) -> None:
    """The manifest is there: the next try only cleans up."""
    operator = mortal(out, delete_input_files=True)
    killed(operator, "delete_file", "before", 2)
    again(operator)
    good(out, server)
    once_too_often = 1  # the first one, before the crash; that it is gone already is no error
    assert server.stats()["requests"]["delete_file"] == len(server.batches()) + once_too_often


@pytest.mark.parametrize("place", ["disk", "store"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_task_is_refused_in_a_directory(
    server: DevServer, out: Path, place: str, *, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped tasks with one output_uri: the second reads no row and sends nothing, the first finishes."""
    monkeypatch.setattr("airflow_provider_openai_batches.inference.claim.task_state", lambda *_: "deferred")
    uri = f"memory://claims/{out.parent.name}" if place == "store" else str(out)
    first = job(uri, requests=rows(3), overwrite=overwrite)
    waiting = waits(first, map_index=0)
    next(waiting)
    before = server.stats()["requests"]
    second = job(uri, requests=iter(()), overwrite=overwrite)
    said = r"Task t\[0\] of DAG dag, run run, has been writing .*map_index.*overwrite=True"
    with pytest.raises(InvalidInputError, match=said):
        run_task(second, task_context(second, map_index=1))
    assert server.stats()["requests"] == before
    list(waiting)
    found = as_path(uri)
    assert sorted(path.name for path in found.iterdir()) == ["manifest.json", "part-00000.jsonl"]


def test_the_claim_of_a_task_that_is_over(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task takes the directory, and the first one, should it go on all the same, writes nothing."""
    server.settings(freeze=True)
    states = {"now": "failed"}
    monkeypatch.setattr(
        "airflow_provider_openai_batches.inference.claim.task_state", lambda *_: states["now"]
    )
    first = job(out, requests=rows(3))
    deferral = deferred(first, map_index=0)
    server.settings(freeze=False)
    second = job(out, requests=rows(2))
    gone_on = task_context(first, map_index=0)
    waiting = waits(second, map_index=1)
    next(waiting)
    event = {"status": "finished", "message": "", "batches": dict.fromkeys(deferral.trigger.batch_ids, "")}
    resumed = fresh(first)
    with pytest.raises(InvalidInputError, match=r"Task t\[1\] .*Cancelled: batch_\w+ is"):
        resume(resumed, gone_on, event, deferral.kwargs)
    list(waiting)
    assert len(results(out)) == 2
    with pytest.raises(InvalidInputError, match=r"holds the results of instance 1 of .*map_index"):
        resume(fresh(first), gone_on, event, deferral.kwargs)
    assert len(results(out)) == 2


@pytest.mark.parametrize(
    ("state", "overwrite", "days", "run_id", "is_taken"),
    [
        (None, False, 0, "run", False),
        (None, True, 0, "run", False),
        (None, True, 0, "another", True),
        (None, False, 2, "run", False),
        (None, False, 3, "run", True),
        ("failed", False, 0, "run", True),
        ("removed", False, 0, "run", True),
        ("running", True, 0, "another", False),
        ("up_for_retry", False, 0, "run", False),
        ("running", True, 3, "run", True),
    ],
)
def test_who_may_take_a_claim(  # noqa: PLR0917 - a table
    server: DevServer,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    overwrite: bool,
    days: int,
    run_id: str,
    is_taken: bool,
) -> None:
    """Whose task is over, whose time is up, or with overwrite=True whose state is unknown, in another run."""
    server.settings(freeze=True)
    monkeypatch.setattr("airflow_provider_openai_batches.inference.claim.task_state", lambda *_: state)
    deferred(job(out, requests=rows(3)), map_index=0)
    claim = out / "_job" / "owner.json"
    told = json.loads(claim.read_bytes())
    claim.write_text(json.dumps({**told, "until": told["until"] - days * 86_400}))
    second = job(out, requests=rows(2), overwrite=overwrite)
    if is_taken:
        deferred(second, map_index=1, run_id=run_id)
        assert json.loads(claim.read_bytes())["map_index"] == 1
    else:
        with pytest.raises(InvalidInputError, match="has been writing"):
            deferred(second, map_index=1, run_id=run_id)
        assert json.loads(claim.read_bytes())["map_index"] == 0


def test_a_claim_that_another_airflow_made_is_not_asked_about(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here its task does not exist, which says nothing."""
    server.settings(freeze=True)
    monkeypatch.setattr("airflow_provider_openai_batches.inference.claim.task_state", lambda *_: "removed")
    deferred(job(out, requests=rows(3)))
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__DEPLOYMENT_ID", "another")
    with pytest.raises(InvalidInputError, match="has been writing"):
        run_task(job(out, requests=rows(3)))


@pytest.mark.parametrize("field", ["output_file_id", "error_file_id"])
@pytest.mark.parametrize("way", ["a copy", "reuse=False"])
def test_a_result_file_that_is_gone(server: DevServer, out: Path, field: str, way: str) -> None:
    """The error names the batch and the file, and both ways out lead out."""
    operator = job(out, requests=rows(3, {1: "fail:400"}))
    waiting = waits(operator)
    next(waiting)
    until(lambda: server.batches()[0]["status"] == "completed")
    batch = server.batches()[0]
    with httpx.Client(
        base_url=server.base_url, headers={"Authorization": "Bearer k"}, trust_env=False
    ) as http:
        copy = http.get(f"/files/{batch[field]}/content").content
        http.delete(f"/files/{batch[field]}").raise_for_status()
    with pytest.raises(
        OpenAIBatchesError, match=f"{batch['id']} is completed.*{batch[field]} is gone"
    ) as raised:
        list(waiting)
    place = str(raised.value).partition("save it as ")[2].partition(" and clear")[0]
    if way == "a copy":
        Path(place).write_bytes(copy)
        again(operator)
        assert len(server.batches()) == 1
    else:
        again(operator, reuse=False)
    assert [row["status"] for row in results(out)] == ["succeeded", "failed", "succeeded"]


@pytest.mark.parametrize("is_mapped", [False, True])
def test_what_overwrite_replaces(server: DevServer, out: Path, *, is_mapped: bool) -> None:
    """The results of earlier runs and of other tasks, but not those of this run's other instances."""
    indexes = (0, 1) if is_mapped else (-1, -1)
    first, second = (job(out, requests=rows(count), overwrite=True) for count in (2, 3))
    run_task(first, task_context(first, map_index=indexes[0]))
    before = server.stats()["requests"]
    if is_mapped:
        said = r"results of instance 0 of this mapped task.*ti\.map_index"
        with pytest.raises(InvalidInputError, match=said):
            run_task(second, task_context(second, map_index=indexes[1]))
        assert (len(results(out)), server.stats()["requests"]) == (2, before)
    run_task(second, task_context(second, map_index=indexes[1], run_id="tomorrow"))
    assert len(results(out)) == 3
    run_task(first, task_context(first, map_index=indexes[0], run_id="tomorrow" if not is_mapped else "run"))
    assert len(results(out)) == 2


def test_a_crash_while_the_job_is_cleared_away(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try finds the manifest, gives up the claim, and leaves no empty directory."""

    def die(*_: object) -> None:
        raise Crash

    operator = mortal(out)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_openai_batches.inference.claim.ClaimFile.release", die)
        with pytest.raises(Crash):
            run_task(operator)
    assert [path.name for path in (out / "_job").iterdir()] == ["owner.json"]
    assert again(operator)["counts"]["succeeded"] == 11
    good(out, server)
