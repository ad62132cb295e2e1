"""``deduplicate``: equal requests of one job are asked once."""

from __future__ import annotations

import json
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from inferencekit import MortalOperator, again, job, killed, manifest, waits
from sharingkit import asked, asking, check_own, outputs, paid, run, sharing, sources
from support import run_task

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError
from airflow_provider_openai_batches.operators.inference_faults import UnusableInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

TEXTS = ["a", "b", "c", "a", "d", "b", "e", "a"]
LABEL = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was logged until now, wherever this Airflow puts it."""
    caplog.set_level("INFO")
    return lambda: capfd.readouterr().out + caplog.text


def once(server: DevServer, texts: list[str]) -> None:
    """Each text was asked once."""
    assert asked(server) == dict.fromkeys(texts, 1)
    assert paid(server) == len(set(texts))


@pytest.mark.parametrize("place", ["disk", "store"])
@pytest.mark.parametrize("size", [50_000, 3, 1])
def test_equal_requests_are_asked_once(server: DevServer, tmp_path: Path, place: str, size: int) -> None:
    output = tmp_path / "out" if place == "disk" else f"memory://twice/{uuid.uuid4().hex}"
    summary = run(output, TEXTS, deduplicate=True, max_requests_per_batch=size)
    check_own(output, TEXTS)
    once(server, TEXTS)
    assert sources(output) == ["duplicate" if text in TEXTS[:n] else "batch" for n, text in enumerate(TEXTS)]
    assert summary["sources"] == {"batch": 5, "live": 0, "store": 0, "duplicate": 3}
    assert summary["counts"]["succeeded"] == 8
    used = sum(batch["usage"]["total_tokens"] for batch in server.batches())
    assert summary["usage"]["total_tokens"] == used
    assert "answers_broken" not in summary


def test_it_is_not_the_default(server: DevServer, out: Path) -> None:
    """Who asks the same thing twice may want two answers."""
    summary = run_task(sharing(out, ["a", "a"]))
    assert "sources" not in summary
    assert list(outputs(out)[0]) == ["custom_id", "status", "output", "usage", "error", "finish_reason"]
    assert paid(server) == 2


def test_many_rows_of_one_request(server: DevServer, out: Path) -> None:
    run(out, ["a"] * 500, deduplicate=True, max_requests_per_batch=100)
    check_own(out, ["a"] * 500)
    once(server, ["a"])
    assert len(server.batches()) == 1, "four of the five files have copies alone"


def test_files_without_repeats_go_as_they_are(server: DevServer, out: Path) -> None:
    texts = ["a", "b", "c", "a", "d", "c", "e", "f"]
    run(out, texts, deduplicate=True, max_requests_per_batch=2)
    check_own(out, texts)
    once(server, texts)
    counts = sorted(batch["request_counts"]["total"] for batch in server.batches())
    assert counts == [2, 2, 2], "the first file, the last one, and what is left of the others"


def test_what_is_asked_first_in_another_file_is_not_asked_again(
    server: DevServer, out: Path, logged: Callable[[], str]
) -> None:
    operator = sharing(out, TEXTS, deduplicate=True, max_rounds=0)
    waiting = waits(operator)
    progress = next(waiting).trigger.serialize()[1]["progress"]
    assert progress.get("again", 0) == progress.get("round", 0) == 0
    assert (progress["batches"], progress["completed"], progress["total"]) == (1, 3, 8)
    for _ in waiting:
        pass
    check_own(out, TEXTS)
    assert manifest(out)["sources"]["duplicate"] == 3
    assert [batch["round"] for batch in manifest(out)["batches"]] == [0]
    said = logged()
    assert "asked again" not in said
    assert "5 of 8 rows come into new files, and are asked for the first time" in said
    assert "0 rows from the store, 3 equal to others, 5 asked" in said


def test_what_fails_is_asked_again_once(server: DevServer, out: Path) -> None:
    markers = {"a": "fail:429*1", "b": "fail:500*1", "c": "fail:400"}
    summary = run(out, TEXTS, deduplicate=True, markers=markers)
    found = {row["custom_id"]: row["status"] for row in outputs(out)}
    assert [key for key, status in found.items() if status == "failed"] == ["c#2"]
    assert asked(server) == {"a": 2, "b": 2, "c": 1, "d": 1, "e": 1}
    assert summary["rounds"] == 1
    assert server.stats()["paid_more_than_once"] == 0


def test_what_has_no_answer_is_from_nowhere(server: DevServer, out: Path) -> None:
    """Neither are the rows that repeat it."""
    summary = run(out, ["a", "b", "a"], markers={"a": "omit"}, deduplicate=True, max_rounds=0)
    assert [row["status"] for row in outputs(out)] == ["missing", "succeeded", "missing"]
    assert sources(out) == [None, "batch", None]
    assert summary["sources"] == {"batch": 1, "live": 0, "store": 0, "duplicate": 0}


def test_answers_that_are_not_valid_are_asked_again_once(server: DevServer, out: Path) -> None:
    given: dict[str, Any] = {"output_schema": LABEL, "retry_invalid": True, "deduplicate": True}
    summary = run(out, ["a", "b", "a"], markers={"a": "invalid_json*1"}, **given)
    assert summary["counts"]["succeeded"] == 3
    assert asked(server) == {"a": 2, "b": 1}
    first, _, repeat = outputs(out)
    assert repeat["output"] == first["output"]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_it_is_set_when_a_try_has_begun_without(
    server: DevServer, out: Path, moment: str, kept: bool
) -> None:
    """What that try submitted is used, also the answers to repeats; only what is left is deduplicated."""
    operator = sharing(out, TEXTS, MortalOperator, max_requests_per_batch=2)
    killed(operator, "create_batch", moment, 3)
    if not kept:
        shutil.rmtree(out)
    before = 2 if moment == "before" else 3
    again(sharing(out, TEXTS, deduplicate=True, max_requests_per_batch=2))
    check_own(out, TEXTS)
    assert server.stats()["paid_more_than_once"] == 0
    texts = TEXTS[: 2 * before]
    assert paid(server) == len(texts) + len(set(TEXTS) - set(texts))


def test_it_is_taken_away_when_a_try_has_begun(server: DevServer, out: Path) -> None:
    operator = sharing(out, TEXTS, MortalOperator, deduplicate=True)
    killed(operator, "retrieve_batch", "before", 1)
    assert "sources" not in again(sharing(out, TEXTS))
    assert [row["output"][-1] for row in outputs(out)] == TEXTS
    assert server.stats()["paid_more_than_once"] == 0
    assert paid(server) == 8


@pytest.mark.parametrize("doom", ["create_batch", "retrieve_batch", "download_file"])
@pytest.mark.parametrize("kept", [True, False])
def test_kills(server: DevServer, out: Path, doom: str, kept: bool) -> None:
    operator = sharing(out, TEXTS, MortalOperator, deduplicate=True, max_requests_per_batch=3)
    killed(operator, doom, "after", 1)
    if not kept:
        shutil.rmtree(out)
    again(operator)
    check_own(out, TEXTS)
    once(server, TEXTS)


@pytest.mark.parametrize(
    ("given", "live"),
    [({"mode": "live"}, 5), ({"canary": 3}, 1), ({"canary": 8}, 4), ({"answer_by": 0.4}, 5)],
)
def test_rows_that_are_asked_live(server: DevServer, out: Path, given: dict[str, Any], live: int) -> None:
    if "answer_by" in given:
        server.settings(batch_seconds=30)
    texts = ["a", "a", *TEXTS]
    summary = run(out, texts, deduplicate=True, **given)
    check_own(out, texts)
    assert paid(server) == 5
    assert summary["sources"]["duplicate"] == 5
    assert summary["sources"]["live"] == summary["live"]["rows"] == live


def test_several_models(server: DevServer, out: Path) -> None:
    """The same prompt to another model is another request."""
    models = ["m1", "m2"]
    bodies = [{"model": models[n % 2], "messages": [{"role": "user", "content": "hi"}]} for n in range(6)]
    summary = run_task(job(out, body=None, requests=bodies, deduplicate=True))
    assert summary["sources"] == {"batch": 2, "live": 0, "store": 0, "duplicate": 4}
    assert paid(server) == 2


def test_embeddings_as_parquet(server: DevServer, out: Path) -> None:
    given: dict[str, Any] = {"endpoint": "/v1/embeddings", "body": {"input": "{text}"}}
    rows = asking(["a", "b", "a"])
    run_task(
        job(out, requests=rows, deduplicate=True, output_format="parquet", keep_columns=["text"], **given)
    )
    table = pq.read_table(out / "part-00000.parquet")
    assert table.column_names[-2:] == ["finish_reason", "source"]
    assert table.column("source").to_pylist() == ["batch", "batch", "duplicate"]
    vectors = table.column("output").to_pylist()
    assert vectors[0] == vectors[2] != vectors[1]
    assert paid(server) == 2


def test_files_that_are_too_large_for_the_token_limit(server: DevServer, out: Path) -> None:
    texts = ["x" * 150 + f" {n % 30}" for n in range(60)]
    run(out, texts, deduplicate=True, max_enqueued_tokens=1_000)
    check_own(out, texts)
    once(server, texts)
    assert len(server.batches()) > 1


def test_a_rejected_batch(server: DevServer, out: Path) -> None:
    """A request that is refused fails all rows that have it, and another try asks what is left."""
    server.settings(batch_seconds=0.3)
    operator = sharing(out, TEXTS, deduplicate=True, max_requests_per_batch=3)
    waiting = waits(operator)
    next(waiting)
    server.force(server.batches()[-1]["id"], status="failed")
    with pytest.raises(BatchFailed, match="rejected"):
        for _ in waiting:
            pass
    again(operator)
    check_own(out, TEXTS)
    assert server.stats()["paid_more_than_once"] == 0


def test_a_dry_run_counts_repeats(server: DevServer, out: Path) -> None:
    operator = sharing(out, TEXTS, deduplicate=True, dry_run=True)
    assert run_task(operator)["sources"] == {"batch": 5, "live": 0, "store": 0, "duplicate": 3}
    again(operator, is_dry_run=False)
    check_own(out, TEXTS)
    once(server, TEXTS)


def test_results_with_and_without_it_are_not_the_same(server: DevServer, out: Path) -> None:
    operator = sharing(out, TEXTS, deduplicate=True)
    run_task(operator)
    assert again(operator)["sources"]["duplicate"] == 3
    with pytest.raises(InvalidInputError, match="holds the results of another job"):
        again(operator, deduplicate=False)
    assert paid(server) == 5


def test_a_kept_column_of_the_same_name(server: DevServer, out: Path) -> None:
    given: dict[str, Any] = {
        "requests": [{"text": "a", "marker": "", "source": "s"}],
        "keep_columns": ["source"],
    }
    with pytest.raises(UnusableInputError, match="keep_columns has source"):
        run_task(job(out / "1", **given, deduplicate=True))
    assert server.stats()["requests"] == {}
    run_task(job(out / "2", **given))
    assert outputs(out / "2")[0]["source"] == "s"


def test_the_jobs_own_files_are_as_before(server: DevServer, out: Path) -> None:
    """A job that a release without this feature began goes on."""
    server.settings(batch_seconds=0.3)
    waiting = waits(sharing(out, TEXTS, max_requests_per_batch=3))
    next(waiting)
    (file,) = out.glob("_job/*/job.json")
    told = json.loads(file.read_bytes())
    del told["repeats"]
    for shard in told["shards"]:
        del shard["new_rows"]
    file.write_text(json.dumps(told))
    for _ in waiting:
        pass
    assert paid(server) == 8
