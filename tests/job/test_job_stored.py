"""Answers from a store in the files of a job."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from jobkit import CHAT, answered, chat, noted, prepare, read_parts

from airflow_provider_openai_batches.answer_store.digests import RowDigests, digest_of
from airflow_provider_openai_batches.inference.data import stored as stored_files
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, Limits
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.data.reusable import reusable_answers
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.inference.data.stored import (
    StoredAnswers,
    StoredWriter,
    add_stored,
    has_all,
    line_of,
    settled_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 60


def written(job: Job, work: Path, rows: list[int], **options: Any) -> StoredAnswers:
    """These rows are found, in this order, each with its own number."""
    writer = StoredWriter(job, work, "token", **options)
    for row in rows:
        writer.add(row, line_of(row, json.dumps(chat(f"A{row}")).encode()))
    return StoredAnswers("uri", token="token", files=writer.end(), rows=writer.rows)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Rows of three models in turn, in parts of two files or so."""
    monkeypatch.setattr("airflow_provider_openai_batches.inference.data.job.MAX_REQUESTS", 20)
    bodies = [
        {"model": f"m{row % 3}", "messages": [{"role": "user", "content": str(row)}]} for row in range(COUNT)
    ]
    return prepare(tmp_path, bodies, Limits(max_requests=8), endpoint=CHAT)


@pytest.mark.parametrize("sizes", [(4 << 20, 256), (1, 256), (1, 3), (700, 256), (1, 1)], ids=str)
@pytest.mark.parametrize("is_ended", [True, False])
def test_any_order_any_files(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int], is_ended: bool
) -> None:
    pending, most_files = sizes
    monkeypatch.setattr(stored_files, "PENDING_BYTES", pending)
    monkeypatch.setattr(stored_files, "MOST_FILES", most_files)
    ended: list[str] = []
    rows = [row for row in range(COUNT) if row % 7]
    random.Random(pending).shuffle(rows)  # noqa: S311 - an order, not a secret
    found = written(job, tmp_path, rows, ended=ended.append if is_ended else None)
    assert len(job.live_parts()) > 2
    assert max(found.files.values()) <= (most_files if is_ended else 1)
    assert found.is_safe
    names = [name for part in job.live_parts() for name in found.names(part)]
    assert sorted(path.name for path in tmp_path.glob("stored-*.jsonl")) == sorted(names)
    if is_ended:
        assert {name for name in ended if name.endswith(".jsonl")} == set(names)
    index = ResultIndex(job, tmp_path)
    for shard in job.shards:
        index.add(shard, [])
    assert list(settled_rows(index, found)) == [int(row % 7 > 0) for row in range(COUNT)]
    add_stored(index, found)
    merge(index, tmp_path / "out", has_source=True)
    for row, result in enumerate(read_parts(tmp_path / "out")):
        assert result["output"] == (f"A{row}" if row % 7 else None)
        assert result["source"] == ("store" if row % 7 else None)
        assert result["usage"] is None


def test_what_the_job_paid_for_itself_comes_first(job: Job, tmp_path: Path) -> None:
    found = written(job, tmp_path, list(range(COUNT)))
    index = ResultIndex(job, tmp_path)
    (tmp_path / "own.jsonl").write_bytes(line_of(0, json.dumps(chat("own")).encode()))
    index.add(job.shards[0], [tmp_path / "own.jsonl"])
    for shard in job.shards[1:]:
        index.add(shard, [])
    add_stored(index, found)
    merged = merge(index, tmp_path / "out", has_source=True)
    assert [row["output"] for row in read_parts(tmp_path / "out")[:2]] == ["own", "A1"]
    assert merged.usage.total_tokens == 5, "what was stored cost nothing"
    assert merged.scan.lines == 1


def test_what_others_may_use(tmp_path: Path) -> None:
    """Answers that this job asked for itself, that are valid and not cut off, by their requests."""
    texts = ["good", "cut", "refused", "stored", "good", "odd"]
    digests = RowDigests(CHAT)
    rows = [{"custom_id": f"é{n}", "body": say(text)} for n, text in enumerate(texts)]
    requests = list(requests_from(rows, endpoint=CHAT))
    job = write_shards(requests, tmp_path, endpoint=CHAT, digests=digests, deduplicate=True)
    cut = chat("half")
    cut["choices"][0]["finish_reason"] = "length"
    odd = answered("é5", json.dumps(chat("as text")))
    lines = [answered("é0", chat("A")), answered("é1", cut), answered("é2", chat(None, refusal="no")), odd]
    index = noted(tmp_path, job, lines)
    add_stored(index, written(job, tmp_path, [3]))
    marks = bytearray(len(texts))
    merge(index, tmp_path / "out", has_source=True, reusable=marks)
    assert list(marks) == [1, 0, 0, 0, 0, 1]
    found = list(reusable_answers(index, marks))
    wanted = [digest_of(CHAT, msgspec.json.encode(requests[row].body)) for row in (0, 5)]
    assert [(digest, model) for digest, model, _ in found] == [(digest, "m") for digest in wanted]
    assert [json.loads(body) for _, _, body in found] == [chat("A"), chat("as text")]
    assert not any(b"\n" in body for _, _, body in found)


def say(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def test_files_that_are_gone(job: Job, tmp_path: Path) -> None:
    found = written(job, tmp_path, list(range(COUNT)))
    index = ResultIndex(job, tmp_path)
    assert has_all(index, found)
    (tmp_path / found.findings_name(job.live_parts()[0])).unlink()
    assert not has_all(index, found)


@pytest.mark.parametrize(
    "found",
    [
        StoredAnswers("uri", token="../x"),
        StoredAnswers("uri", token="x", files={"a/b": 1}),
        StoredAnswers("uri", token="x", files={"00000": 10**12}),
        StoredAnswers("uri", token="x", files={"00000": 0}),
    ],
)
def test_records_that_lead_elsewhere(found: StoredAnswers) -> None:
    assert not found.is_safe
