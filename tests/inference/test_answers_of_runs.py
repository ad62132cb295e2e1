"""``answers_uri``: a request that any run has asked before is not asked again."""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from inferencekit import Crash, MortalOperator, again, job, killed, manifest, waits
from pydantic import BaseModel, field_validator
from sharingkit import asked, asking, check_own, outputs, paid, run, sharing, sources
from support import run_task

from airflow_provider_openai_batches.answer_store.store import AnswerStore
from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError
from airflow_provider_openai_batches.inference import answers, workspace
from airflow_provider_openai_batches.inference.data.findings import Findings
from airflow_provider_openai_batches.inference.records import Records
from airflow_provider_openai_batches.operators.inference_faults import LastingError, UnusableInputError
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.devserver import DevServer

OLD = [f"text {n}" for n in range(20)]
HOUR = 3_600.0


@pytest.fixture(params=["disk", "store", "full store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where outputs and answers are; in a full store nothing stays on the worker that need not."""
    if request.param == "full store":
        monkeypatch.setattr(workspace, "SPARE_BYTES", 0)
        monkeypatch.setattr(answers, "SPARE_BYTES", 0)
    return str(tmp_path) if request.param == "disk" else f"memory://runs/{uuid.uuid4().hex}"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "answers")


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was logged until now, wherever this Airflow puts it."""
    caplog.set_level("INFO")
    return lambda: capfd.readouterr().out + caplog.text


def test_a_second_run_asks_what_is_new(server: DevServer, place: str) -> None:
    given: dict[str, Any] = {"answers_uri": f"{place}/answers", "max_requests_per_batch": 7}
    first = run(f"{place}/1", OLD, **given)
    assert first["sources"] == {"batch": 20, "live": 0, "store": 0, "duplicate": 0}
    texts = ["new 1", *OLD[5:], "new 2", *OLD[:3]]
    second = run(f"{place}/2", texts, **given)
    check_own(f"{place}/2", texts)
    assert second["sources"] == {"batch": 2, "live": 0, "store": 18, "duplicate": 0}
    assert second["counts"]["succeeded"] == 20
    assert second["answers_broken"] == 0
    assert asked(server) == dict.fromkeys([*OLD, "new 1", "new 2"], 1)
    assert second["usage"]["total_tokens"] == server.batches()[-1]["usage"]["total_tokens"]
    third = run(f"{place}/3", texts, **given)
    assert third["sources"]["store"] == 20
    assert third["batches"] == []
    assert third["usage"]["total_tokens"] == 0
    check_own(f"{place}/3", texts)
    assert paid(server) == 22


def test_fifty_of_a_thousand_rows_have_changed(server: DevServer, store: str, tmp_path: Path) -> None:
    texts = [f"row {n}" for n in range(1_000)]
    run(tmp_path / "1", texts, answers_uri=store)
    for n in range(0, 1_000, 20):
        texts[n] = f"changed {n}"
    summary = run(tmp_path / "2", texts, answers_uri=store, max_requests_per_batch=100)
    check_own(tmp_path / "2", texts)
    assert summary["sources"] == {"batch": 50, "live": 0, "store": 950, "duplicate": 0}
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [1_000, 50]


def test_what_it_says(server: DevServer, store: str, tmp_path: Path, logged: Callable[[], str]) -> None:
    run(tmp_path / "1", OLD, answers_uri=store)
    waiting = waits(sharing(tmp_path / "2", [*OLD, "new"], answers_uri=store, max_rounds=0))
    progress = next(waiting).trigger.serialize()[1]["progress"]
    assert progress.get("again", 0) == progress.get("round", 0) == 0
    assert (progress["completed"], progress["total"]) == (20, 21)
    for _ in waiting:
        pass
    said = logged()
    assert "20 rows from the store, 0 equal to others, 1 asked" in said
    assert f"{store} has answers to 20 of 21 rows" in said
    assert f"{store} has 1 more answers" in said
    assert "asked again" not in said
    assert manifest(tmp_path / "2")["sources"]["store"] == 20
    assert manifest(tmp_path / "2")["answers_broken"] == 0


def test_with_deduplicate(server: DevServer, store: str, tmp_path: Path) -> None:
    run(tmp_path / "1", ["a", "b"], answers_uri=store)
    texts = ["a", "c", "a", "c", "b"]
    run(tmp_path / "2", texts, answers_uri=store, deduplicate=True)
    check_own(tmp_path / "2", texts)
    assert sources(tmp_path / "2") == ["store", "batch", "duplicate", "duplicate", "store"]
    assert paid(server) == 3


def test_failures_and_cut_answers_stay_out(server: DevServer, store: str, tmp_path: Path) -> None:
    markers = {"a": "fail:400", "b": "refuse"}
    run(tmp_path / "1", ["a", "b", "c"], answers_uri=store, markers=markers)
    run(tmp_path / "2", ["a", "b", "c"], answers_uri=store, markers=markers)
    assert sources(tmp_path / "2") == ["batch", "batch", "store"]
    assert asked(server)["c"] == 1


def test_a_job_that_fails_keeps_its_answers(server: DevServer, store: str, tmp_path: Path) -> None:
    with pytest.raises(BatchFailed, match="fail_on"):
        run(tmp_path / "1", ["a", "b"], answers_uri=store, markers={"a": "fail:400"}, fail_on="any")
    run(tmp_path / "2", ["b", "c"], answers_uri=store)
    assert sources(tmp_path / "2") == ["store", "batch"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_try_that_has_looked_does_not_look_again(
    server: DevServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """It has its answers in its own files, unless these are lost."""
    run(tmp_path / "1", OLD, answers_uri=store)
    texts = [*OLD, "new"]
    operator = sharing(tmp_path / "2", texts, MortalOperator, answers_uri=store)
    killed(operator, "retrieve_batch", "before", 1)
    if not kept:
        shutil.rmtree(tmp_path / "2")
    looks = []
    find = AnswerStore.find
    monkeypatch.setattr(AnswerStore, "find", lambda *a, **k: looks.append(1) or find(*a, **k))  # type: ignore[func-returns-value]
    assert again(operator)["sources"] == {"batch": 1, "live": 0, "store": 20, "duplicate": 0}
    assert len(looks) == (0 if kept else 1)
    check_own(tmp_path / "2", texts)
    assert paid(server) == 21


@pytest.mark.parametrize("doom", ["create_batch", "retrieve_batch", "download_file"])
@pytest.mark.parametrize("kept", [True, False])
def test_kills(server: DevServer, place: str, doom: str, kept: bool) -> None:
    given: dict[str, Any] = {"answers_uri": f"{place}/answers", "max_requests_per_batch": 6}
    run(f"{place}/1", OLD[::2], **given)
    texts = [*OLD, *(f"new {n}" for n in range(13))]
    operator = sharing(f"{place}/2", texts, MortalOperator, **given)
    killed(operator, doom, "after", 2)
    if not kept:
        output = as_path(f"{place}/2")
        output.fs.rm(output.path, recursive=True) if hasattr(output, "fs") else shutil.rmtree(output)
    again(operator)
    check_own(f"{place}/2", texts)
    assert asked(server) == dict.fromkeys(texts, 1)


def test_a_death_while_it_looks(server: DevServer, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has written by then is not used: the next try looks again."""
    given: dict[str, Any] = {"answers_uri": f"{place}/answers", "max_requests_per_batch": 6}
    run(f"{place}/1", OLD, **given)
    texts = ["new", *OLD]
    operator = sharing(f"{place}/2", texts, **given)
    with monkeypatch.context() as patch:
        patch.setattr(Findings, "save", _die)
        with pytest.raises(Crash):
            run_task(operator)
    assert again(operator)["sources"] == {"batch": 1, "live": 0, "store": 20, "duplicate": 0}
    check_own(f"{place}/2", texts)
    assert paid(server) == 21


def test_a_try_that_began_without_a_store(server: DevServer, store: str, tmp_path: Path) -> None:
    """Its batch is used as it is; the store is asked about the rest."""
    run(tmp_path / "1", OLD, answers_uri=store)
    operator = sharing(tmp_path / "2", OLD, MortalOperator, max_requests_per_batch=10)
    killed(operator, "create_batch", "after", 1)
    again(sharing(tmp_path / "2", OLD, max_requests_per_batch=10, answers_uri=store))
    check_own(tmp_path / "2", OLD)
    assert sources(tmp_path / "2") == ["batch"] * 10 + ["store"] * 10
    assert paid(server) == 30


def test_a_store_that_is_taken_away_or_another_one(server: DevServer, store: str, tmp_path: Path) -> None:
    """What was found in a store that the task does not name any more is not used."""
    run(tmp_path / "1", OLD, answers_uri=store)
    texts = [*OLD, "new"]
    killed(sharing(tmp_path / "2", texts, MortalOperator, answers_uri=store), "retrieve_batch", "before", 1)
    again(sharing(tmp_path / "2", texts, answers_uri=str(tmp_path / "others")))
    assert sources(tmp_path / "2") == ["batch"] * 21
    assert paid(server) == 41
    assert server.stats()["paid_more_than_once"] == 20


def test_a_task_that_ends_twice_stores_its_answers_once(
    server: DevServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = sharing(tmp_path / "out", OLD, answers_uri=store, deferrable=False)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_openai_batches.inference.results.write_json", _die)
        with pytest.raises(Crash):
            run_task(operator)
    (before,) = Path(store).glob("*.index")
    again(operator)
    (after,) = Path(store).glob("*.index")
    assert after != before, "it was written once more, and replaced"
    run(tmp_path / "2", OLD, answers_uri=store)
    assert sources(tmp_path / "2") == ["store"] * 20


def _die(*_: object) -> None:
    raise Crash


def test_the_same_job_again_takes_nothing_away(server: DevServer, store: str, tmp_path: Path) -> None:
    """It asks nothing, so it has nothing to store; what it stored the first time stays."""
    operator = sharing(tmp_path / "out", OLD, answers_uri=store, overwrite=True)
    run_task(operator)
    for _ in range(2):
        shutil.rmtree(tmp_path / "out")
        assert run_task(operator)["sources"]["store"] == 20
    assert paid(server) == 20


def test_a_try_that_lost_all_takes_nothing_away(server: DevServer, store: str, tmp_path: Path) -> None:
    """What the try before stored comes from the store now; what is new is stored beside it."""
    server.settings(batch_seconds_by_number=[0.05, 5])
    given: dict[str, Any] = {"answers_uri": store, "max_requests_per_batch": 10}
    with pytest.raises(LastingError, match="of 20 rows had no answer"):
        run(tmp_path / "out", OLD, answer_by=1.0, then="fail", **given)
    known = sum(row["status"] == "succeeded" for row in outputs(tmp_path / "out"))
    assert 10 <= known < 20
    shutil.rmtree(tmp_path / "out")
    server.reset()
    server.settings(batch_seconds=0.05)
    summary = again(sharing(tmp_path / "out", OLD, **given))
    assert summary["sources"] == {"batch": 20 - known, "live": 0, "store": known, "duplicate": 0}
    assert run(tmp_path / "3", OLD, **given)["sources"]["store"] == 20


def test_reuse_false_asks_all_and_stores_it(
    server: DevServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "1", OLD, answers_uri=store)
    with monkeypatch.context() as patch:
        patch.setattr(AnswerStore, "find", _die)
        summary = run(tmp_path / "2", OLD, answers_uri=store, reuse=False)
    assert summary["sources"]["batch"] == 20
    assert "answers_broken" not in summary
    assert paid(server) == 40
    assert run(tmp_path / "3", OLD, answers_uri=store)["sources"]["store"] == 20


def test_old_answers_are_asked_anew(server: DevServer, store: str, tmp_path: Path) -> None:
    run(tmp_path / "1", ["a"], answers_uri=store)
    time.sleep(0.3)
    ages: dict[float | timedelta | None, str] = {
        None: "store",
        HOUR: "store",
        timedelta(seconds=0.2): "batch",
    }
    for number, (age, source) in enumerate(ages.items()):
        run(tmp_path / f"age {number}", ["a"], answers_uri=store, answers_max_age=age)
        assert sources(tmp_path / f"age {number}") == [source], age
    run(tmp_path / "4", ["a"], answers_uri=store, answers_max_age=HOUR)
    assert sources(tmp_path / "4") == ["store"]
    assert paid(server) == 2


@pytest.mark.parametrize(
    ("given", "live"),
    [({"mode": "live"}, 5), ({"canary": 22}, 2), ({"canary": 3}, 0), ({"answer_by": 0.4}, 5)],
)
def test_rows_that_are_asked_live(
    server: DevServer, store: str, tmp_path: Path, given: dict[str, Any], live: int
) -> None:
    run(tmp_path / "1", OLD, answers_uri=store, mode="live")
    assert paid(server) == 20
    if "answer_by" in given:
        server.settings(batch_seconds=30)
    texts = [*OLD, *(f"new {n}" for n in range(5))]
    summary = run(tmp_path / "2", texts, answers_uri=store, **given)
    check_own(tmp_path / "2", texts)
    assert paid(server) == 25
    assert summary["sources"]["live"] == live
    assert run(tmp_path / "3", texts, answers_uri=store)["sources"]["store"] == 25


def test_a_canary_measures_the_rows_that_it_asked(server: DevServer, store: str, tmp_path: Path) -> None:
    """What a row takes is not said to be less because others of the canary cost nothing."""
    measured = []
    run(tmp_path / "1", OLD[:3], answers_uri=store)
    for uri in (None, store):
        output = tmp_path / f"canary {uri is None}"
        waiting = waits(sharing(output, OLD, answers_uri=uri, canary=4))
        next(waiting)
        (file,) = output.glob("_job/*/batches.json")
        measured.append(json.loads(file.read_bytes())["measured"])
        for _ in waiting:
            pass
    assert measured[0] == pytest.approx(measured[1], rel=0.05)


class Label(BaseModel):
    label: str


class OtherLabel(BaseModel):
    label: str

    @field_validator("label")
    @classmethod
    def check(cls, value: str) -> str:
        raise ValueError("not any more")


OtherLabel.__name__ = "Label"


def test_an_answer_that_is_not_valid_any_more_is_asked_anew(
    server: DevServer, store: str, tmp_path: Path
) -> None:
    """The schema in the requests is the same, but its validator has changed."""
    run(tmp_path / "1", ["a"], answers_uri=store, output_schema=Label)
    run(tmp_path / "2", ["a"], answers_uri=store, output_schema=Label)
    assert sources(tmp_path / "2") == ["store"]
    with pytest.raises(BatchFailed):
        run(tmp_path / "3", ["a"], answers_uri=store, output_schema=OtherLabel)
    assert sources(tmp_path / "3") == ["batch"]
    assert paid(server) == 2


def test_an_answer_that_no_other_output_can_use(server: DevServer, store: str, tmp_path: Path) -> None:
    """Another job may ask for the whole body, or for its text."""
    run(tmp_path / "1", OLD, answers_uri=store, output="body")
    run(tmp_path / "2", OLD, answers_uri=store)
    check_own(tmp_path / "2", OLD)
    assert sources(tmp_path / "2") == ["store"] * 20


def test_retry_invalid(server: DevServer, store: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"output_schema": Label, "retry_invalid": True, "answers_uri": store}
    markers = {"a": "invalid_json*1"}
    run(tmp_path / "1", ["a", "b"], markers=markers, **given)
    run(tmp_path / "2", ["a", "b", "c"], markers=markers, **given)
    assert sources(tmp_path / "2") == ["store", "store", "batch"]
    assert asked(server) == {"a": 2, "b": 1, "c": 1}


def test_embeddings_parquet_default_ids(server: DevServer, store: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"endpoint": "/v1/embeddings", "body": {"input": "{text}"}, "answers_uri": store}
    for number, texts in enumerate((["a", "b"], ["b", "c", "a"])):
        run_task(job(tmp_path / str(number), requests=asking(texts), output_format="parquet", **given))
    one, two = (pq.read_table(tmp_path / name / "part-00000.parquet").to_pylist() for name in "01")
    assert [row["source"] for row in two] == ["store", "batch", "store"]
    assert [row["custom_id"] for row in two] == ["row-0", "row-1", "row-2"]
    assert [two[2]["output"], two[0]["output"]] == [row["output"] for row in one]
    assert two[0]["usage"] is None
    assert paid(server) == 3


def test_several_models(server: DevServer, store: str, tmp_path: Path) -> None:
    def bodies(texts: list[str]) -> list[dict[str, Any]]:
        return [
            {"model": f"m{n % 3}", "messages": [{"role": "user", "content": text}]}
            for n, text in enumerate(texts)
        ]

    run_task(job(tmp_path / "1", body=None, requests=bodies(OLD), answers_uri=store))
    texts = ["new", *OLD[1:], "x"]
    run_task(job(tmp_path / "2", body=None, requests=bodies(texts), answers_uri=store))
    assert sources(tmp_path / "2") == ["batch", *["store"] * 19, "batch"]
    assert [row["output"].split("to: ")[-1] for row in outputs(tmp_path / "2")] == texts


def test_a_dry_run_says_what_is_in_the_store(server: DevServer, store: str, tmp_path: Path) -> None:
    run(tmp_path / "1", OLD, answers_uri=store)
    texts = [*OLD, "a", "a", *OLD]
    operator = sharing(tmp_path / "2", texts, answers_uri=store, deduplicate=True, dry_run=True)
    assert run_task(operator)["sources"] == {"batch": 1, "live": 0, "store": 20, "duplicate": 21}
    assert paid(server) == 20


def test_a_store_that_fails_at_the_end_fails_no_job(
    server: DevServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AnswerStore, "writer", full)
    assert run(tmp_path / "1", ["a"], answers_uri=store)["counts"]["succeeded"] == 1
    assert "The 1 new answers could not be written" in logged()


def test_a_worker_that_cannot_reach_the_store_when_the_job_is_done(
    server: DevServer, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    """For example because it lacks a library; what was found and asked until then is not lost."""
    run(tmp_path / "1", OLD, answers_uri=store)
    waiting = waits(sharing(tmp_path / "2", [*OLD, "new"], answers_uri=store))
    next(waiting)

    def missing(*_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(answers, "AnswerStore", missing)
    for _ in waiting:
        pass
    check_own(tmp_path / "2", [*OLD, "new"])
    assert sources(tmp_path / "2") == ["store"] * 20 + ["batch"]
    assert "Install s3fs to access S3" in logged()


@pytest.mark.parametrize("uri", ["", "/proc/no/answers", "nosuchscheme://x/y"])
def test_a_store_that_cannot_be_used(server: DevServer, tmp_path: Path, uri: str) -> None:
    """What is wrong is said once, before a row is read."""
    read: list[int] = []

    def rows() -> Iterator[dict[str, str]]:
        read.append(1)
        yield from asking(["a"])

    with pytest.raises(InvalidInputError, match="answers_uri") as raised:
        run_task(job(tmp_path / "out", requests=rows(), answers_uri=uri))
    assert isinstance(raised.value, UnusableInputError)
    assert str(raised.value).count("answers_uri") == 1
    assert not read
    assert server.stats()["requests"] == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"answers_max_age": 60}, "answers_max_age needs answers_uri"),
        ({"answers_uri": "x", "answers_max_age": 0}, "answers_max_age is 0"),
        ({"answers_uri": "x", "answers_max_age": timedelta(0)}, "answers_max_age is 0.0"),
        ({"answers_uri": "x", "answers_max_age": -1.5}, "answers_max_age is -1.5"),
        ({"answers_uri": "x", "answers_max_age": float("nan")}, "answers_max_age is nan"),
        ({"answers_uri": "x", "answers_max_age": "1d"}, "answers_max_age is '1d'"),
        ({"answers_uri": "x", "answers_max_age": True}, "answers_max_age is True"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], said: str) -> None:
    """When the DAG is parsed."""
    with pytest.raises(InvalidInputError, match=said):
        job("/tmp/out", requests=["a"], **given)  # noqa: S108 - nothing is written


def test_two_jobs_at_once(server: DevServer, place: str) -> None:
    """Both find what was there, each stores what it asked, and the next job has all of it."""
    given: dict[str, Any] = {"answers_uri": f"{place}/answers", "deferrable": False}
    run(f"{place}/0", OLD, **given)
    texts = [[*OLD, *(f"{name} {n}" for n in range(30)), "both"] for name in "xy"]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            run(f"{place}/{number}", texts[number - 1], **given, task_id=f"t{number}")
        except BaseException as error:  # noqa: BLE001 - the test says it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in (1, 2):
        check_own(f"{place}/{number}", texts[number - 1])
    everything = [*texts[0], *texts[1][20:-1]]
    assert run(f"{place}/3", everything, **given)["sources"]["store"] == 81
    check_own(f"{place}/3", everything)


@pytest.mark.parametrize(
    "damaged", [("findings", b""), ("findings", b"?"), ("jsonl", b""), ("jsonl", b"?")], ids=str
)
@pytest.mark.parametrize("is_resumed", [True, False])
def test_files_that_are_lost_cost_no_row_its_answer(
    server: DevServer, store: str, tmp_path: Path, damaged: tuple[str, bytes], is_resumed: bool
) -> None:
    """Rows whose answer the job's files do not have any more are asked; a new try looks it up again."""
    run(tmp_path / "1", OLD, answers_uri=store)
    texts = [*OLD, "new"]
    operator = sharing(tmp_path / "2", texts, answers_uri=store)
    waiting = waits(operator)
    next(waiting)
    (file,) = (tmp_path / "2").glob(f"_job/*/stored-*.{damaged[0]}")
    file.write_bytes(damaged[1]) if damaged[1] else file.unlink()
    if damaged == ("jsonl", b"?"):
        with pytest.raises(InvalidInputError, match=r"stored-.* was changed while its results were merged"):
            list(waiting)
        return
    if is_resumed:
        for _ in waiting:
            pass
    else:
        again(operator)
    check_own(tmp_path / "2", texts)
    assert sources(tmp_path / "2")[:20] == (["batch"] if is_resumed else ["store"]) * 20
    assert asked(server)["new"] == 1


def test_a_broken_segment_is_skipped_and_counted(
    server: DevServer, store: str, tmp_path: Path, logged: Callable[[], str]
) -> None:
    """Its rows are asked; those of the other segment are not."""
    run(tmp_path / "1", OLD[:10], answers_uri=store)
    (broken,) = Path(store).glob("*.answers.jsonl")
    run(tmp_path / "2", OLD[10:], answers_uri=store)
    broken.write_bytes(broken.read_bytes().replace(b"text", b"TEXT")[:-7])
    summary = run(tmp_path / "3", OLD, answers_uri=store)
    check_own(tmp_path / "3", OLD)
    assert summary["answers_broken"] == manifest(tmp_path / "3")["answers_broken"] == 1
    assert sources(tmp_path / "3") == ["batch"] * 10 + ["store"] * 10
    assert "1 broken segments of it were skipped" in logged()


def test_records_that_name_files_elsewhere_are_lost(server: DevServer, store: str, tmp_path: Path) -> None:
    run(tmp_path / "1", OLD, answers_uri=store)
    texts = [*OLD, "new"]
    operator = sharing(tmp_path / "2", texts, MortalOperator, answers_uri=store)
    killed(operator, "retrieve_batch", "before", 1)
    (file,) = (tmp_path / "2").glob("_job/*/batches.json")
    told = json.loads(file.read_bytes())
    told["stored"]["token"] = "../../x"
    file.write_text(json.dumps(told))
    assert Records.load(file.parent) is None
    assert again(operator)["sources"]["store"] == 20
    check_own(tmp_path / "2", texts)
    assert paid(server) == 21
