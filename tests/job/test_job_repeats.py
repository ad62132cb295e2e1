"""Equal requests of a job are asked once, and each of their rows gets the answer."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobkit import CHAT, Service, answered, chat, read_parts, write_lines

from airflow_provider_openai_batches.answer_store.digests import RowDigests
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.followup import write_followup
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, Limits
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.data.repeats import REPEATS_FILE
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.inference.data.writers import WRITERS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def deduplicated(work: Path, rows: Any, size: int = 50_000, endpoint: str = CHAT, **options: Any) -> Job:
    requests = requests_from(rows, endpoint=endpoint, **{"model": "m", **options})
    limits, digests = Limits(max_requests=size), RowDigests(endpoint)
    return write_shards(requests, work, endpoint=endpoint, limits=limits, digests=digests, deduplicate=True)


def not_submitted(index: ResultIndex) -> ResultIndex:
    """As if no shard was submitted: all of its rows are asked in others."""
    for shard in index.job.shards:
        index.add(shard, [], counts=False)
    return index


def asked_once(work: Path, job: Job) -> tuple[ResultIndex, Service]:
    after, service = write_followup(not_submitted(ResultIndex(job, work))), Service(work)
    index = ResultIndex(after, work)
    for shard in after.shards:
        index.add(shard, service.run(shard) if shard.round else [], counts=shard.round > 0)
    return index, service


def test_a_job_knows_its_repeats_and_its_request_files_are_as_ever(tmp_path: Path) -> None:
    rows = ["a", "b", "a", "c", "b", "a"]
    job = deduplicated(tmp_path / "one", rows)
    plain = write_shards(requests_from(rows, endpoint=CHAT, model="m"), tmp_path / "two", endpoint=CHAT)
    assert job.repeats == 3
    assert plain.repeats == 0
    assert (job.digest, job.shards) == (plain.digest, plain.shards)
    assert Job.load(tmp_path / "one") == job
    assert list(ResultIndex(job, tmp_path / "one").repeats.rows) == [2, 4, 5]


def test_a_job_without_repeats_has_no_file_of_them(tmp_path: Path) -> None:
    assert deduplicated(tmp_path, ["a", "b"]).repeats == 0
    assert not (tmp_path / REPEATS_FILE).exists()


def test_repeats_are_never_open(tmp_path: Path) -> None:
    job = deduplicated(tmp_path, ["a", "b", "a", "c", "b"])
    index = not_submitted(ResultIndex(job, tmp_path))
    assert list(index.open_rows()) == [1, 1, 0, 1, 0]
    assert [index.is_unfinished(row) for row in range(5)] == [True, True, False, True, False]
    assert index.unfinished == 3


def test_each_row_gets_the_answer_and_tokens_count_once(tmp_path: Path) -> None:
    index, service = asked_once(tmp_path, deduplicated(tmp_path, ["a", "b", "a", "c", "b", "a"], size=2))
    merged = merge(index, tmp_path / "out", has_source=True)
    found = read_parts(tmp_path / "out")
    assert [row["output"] for row in found] == ["a", "b", "a", "c", "b", "a"]
    repeats = [False, False, True, False, True, True]
    assert [row["source"] for row in found] == ["duplicate" if each else "batch" for each in repeats]
    assert [row["usage"] is None for row in found] == repeats
    assert merged.counts["succeeded"] == 6
    assert merged.sources == {"batch": 3, "live": 0, "store": 0, "duplicate": 3}
    assert merged.usage.total_tokens == 15
    assert sum(service.asked.values()) == 3
    assert [shard.new_rows for shard in index.job.shards if shard.round] == [2, 1]


def test_failures_are_shared_too(tmp_path: Path) -> None:
    job = deduplicated(tmp_path, ["a", "b", "a"])
    index = ResultIndex(job, tmp_path)
    refused = answered("row-0", {"error": {"code": "bad", "message": "no"}}, 400)
    lines = [refused, answered("row-1", chat("B"))]
    index.add(job.shards[0], [write_lines(tmp_path / "output.jsonl", lines)])
    merged = merge(index, tmp_path / "out")
    assert [row["status"] for row in read_parts(tmp_path / "out")] == ["failed", "succeeded", "failed"]
    assert merged.errors["bad"].count == 2


def test_what_an_earlier_try_paid_for_a_repeat_is_not_asked_again(tmp_path: Path) -> None:
    """Its batch asked whole files; the row that is repeated may have failed there."""
    job = deduplicated(tmp_path, ["a", "a", "a", "b"])
    index = ResultIndex(job, tmp_path)
    busy = answered("row-0", {"error": {"message": "busy"}}, 503)
    lines = [busy, *(answered(f"row-{n}", chat(f"A{n}")) for n in (1, 2, 3))]
    index.add(job.shards[0], [write_lines(tmp_path / "output.jsonl", lines)])
    assert not any(index.open_rows())
    merged = merge(index, tmp_path / "out")
    assert [row["output"] for row in read_parts(tmp_path / "out")] == ["A1", "A1", "A1", "A3"]
    assert merged.usage.total_tokens == 15, "both answers to the same request were paid for"


def test_a_row_waits_while_its_repeat_is_asked(tmp_path: Path) -> None:
    job = deduplicated(tmp_path, ["a", "b", "a", "c"], size=2)
    index = ResultIndex(job, tmp_path)
    index.add(job.shards[0], [], counts=False)
    assert list(index.open_rows()) == [0, 1, 0, 0], "the batch of the second file may still answer it"


def test_a_rejection_of_a_repeat_is_none_of_the_row_that_it_repeats(tmp_path: Path) -> None:
    job = deduplicated(tmp_path, ["a", "b", "a", "c"], size=2)
    index = ResultIndex(job, tmp_path)
    index.reject(job.shards[1], RowError("rejected", "no"))
    index.add(job.shards[0], [write_lines(tmp_path / "o", [answered("row-0", chat("A"))])])
    merge(index, tmp_path / "out")
    statuses = [row["status"] for row in read_parts(tmp_path / "out")]
    assert statuses == ["succeeded", "missing", "succeeded", "failed"]


class Store:
    """Copies of the job's files, which are gone as soon as nobody needs them."""

    def __init__(self, kept: Path, local: Path) -> None:
        self.kept, self.local, self.fetched = kept, local, 0

    def fetch(self, names: Iterable[str]) -> None:
        for name in names:
            if not (self.local / name).exists():
                self.fetched += 1
                shutil.copy(self.kept / name, self.local / name)

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            (self.local / name).unlink(missing_ok=True)


def test_repeats_need_no_file_of_a_store_again(tmp_path: Path) -> None:
    count = 1_000
    rows = [f"p{n % (count // 2)}" for n in range(count)]
    kept, local = tmp_path / "kept", tmp_path / "local"
    index, _ = asked_once(kept, deduplicated(kept, rows, size=50))
    shutil.copytree(kept, local)
    store = Store(kept, local)
    again = ResultIndex(index.job, local, copies=store)
    for shard in index.job.shards:
        files = [local / f"{kind}-{shard.index}.jsonl" for kind in ("output", "error")] if shard.round else []
        again.add(shard, files, counts=shard.round > 0)
    store.fetched = 0
    merge(again, tmp_path / "out", has_source=True)
    assert [row["output"] for row in read_parts(tmp_path / "out")] == rows
    assert store.fetched <= 2 * 10, "10 batches answered, each with two files"


@pytest.mark.parametrize("damage", [b"", b"\0" * 7, b"\0" * 8, b"\1\0\0\0\2\0\0\0", b"\xff\0\0\0\0\0\0\0"])
def test_a_damaged_file_of_repeats_is_named(tmp_path: Path, damage: bytes) -> None:
    job = deduplicated(tmp_path, ["a", "b", "a"])
    (tmp_path / REPEATS_FILE).write_bytes(damage)
    with pytest.raises(InvalidInputError, match=r"repeats\.bin is damaged.*Delete job\.json"):
        ResultIndex(job, tmp_path)


@pytest.mark.parametrize("has_source", [True, False])
@pytest.mark.parametrize("output_format", sorted(WRITERS))
def test_the_column_source_comes_last(tmp_path: Path, output_format: str, has_source: bool) -> None:
    index, _ = asked_once(tmp_path, deduplicated(tmp_path, ["a", "a"], keep_columns=[]))
    merge(index, tmp_path / "out", output_format=output_format, has_source=has_source)
    if output_format == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    else:
        rows = read_parts(tmp_path / "out")
    assert list(rows[0]) == [
        "custom_id", "status", "output", "usage", "error", "finish_reason", *["source"] * has_source
    ]  # fmt: skip
    assert [row.get("source") for row in rows] == (["batch", "duplicate"] if has_source else [None, None])
    assert [row["usage"] is None for row in rows] == [False, True]


def test_a_kept_column_of_that_name_is_refused_where_there_is_one() -> None:
    rows = [{"text": "a", "source": "x"}]
    given: dict[str, Any] = {"endpoint": CHAT, "model": "m", "body": "{text}", "keep_columns": ["source"]}
    assert len(list(requests_from(rows, **given))) == 1
    with pytest.raises(InvalidInputError, match="keep_columns has source: that is a column of the results"):
        requests_from(rows, **given, has_source=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20),
    size=st.integers(1, 6),
    faults=st.dictionaries(st.integers(0, 19), st.sampled_from(["busy", "lost", "expired", "invalid"])),
)
def test_any_repeats_any_faults(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], size: int, faults: dict[int, str]
) -> None:
    work = tmp_path_factory.mktemp("job")
    job = deduplicated(work, rows, size)
    service = Service(work, {(1, f"row-{n}"): each for n, each in faults.items()})
    results: dict[int, list[Path]] = {}
    is_over = False
    while not is_over:
        index = ResultIndex(job, work)
        for shard in job.shards:
            if shard.round and shard.index not in results:
                results[shard.index] = service.run(shard)
            index.add(shard, results.get(shard.index, []), counts=shard.round > 0)
        is_over, job = (after := write_followup(index)) is job, after
    merged = merge(index, work / "out", has_source=True)
    for row, text in zip(read_parts(work / "out"), rows, strict=True):
        refused = faults.get(rows.index(text)) == "invalid"
        assert row["output"] == (None if refused else text), json.dumps(row)
    firsts = {f"row-{rows.index(text)}" for text in rows}
    assert set(service.asked) == firsts
    assert max(service.paid.values(), default=0) <= 1
    assert merged.usage.total_tokens == 5 * sum(service.paid.values())
