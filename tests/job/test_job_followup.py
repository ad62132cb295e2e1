"""Which rows are asked again, and what happens to their results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jobkit import Service, answered, chat, failed, noted, prepare, read_parts, write_lines

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.followup import write_followup
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, Limits, read_ids
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

if TYPE_CHECKING:
    from pathlib import Path


def test_followup_asks_only_what_may_help(tmp_path: Path) -> None:
    """What expired, was cancelled, got lost or failed for the moment is sent again unchanged, and no more."""
    rows = [f"p{number}" for number in range(8)]
    job = prepare(tmp_path, rows, Limits(max_requests=3))
    kinds = ["expired", "cancelled", "busy", "limited", "lost", "invalid"]
    service = Service(tmp_path, {(0, f"row-{number}"): kind for number, kind in enumerate(kinds)})
    index = service.index(job)
    assert index.unfinished == 5
    more = write_followup(index)
    assert [(s.index, s.round, s.requests, s.first_row, s.last_row) for s in more.shards[3:]] == [
        (3, 1, 3, 0, 2),
        (4, 1, 2, 3, 4),
    ]
    assert more.shards[:3] == job.shards
    assert (Job.load(tmp_path), more.round, more.digest) == (more, 1, job.digest)
    original = b"".join((tmp_path / shard.file).read_bytes() for shard in job.shards).splitlines()
    again = b"".join((tmp_path / shard.file).read_bytes() for shard in more.shards[3:]).splitlines()
    assert again == original[:5]
    assert [row for shard in more.shards[3:] for row, _ in read_ids(tmp_path, shard)] == [0, 1, 2, 3, 4]
    assert more.bytes == job.bytes
    assert more.shards[3].estimated_tokens == job.shards[0].estimated_tokens


def test_second_round_fills_the_gaps(tmp_path: Path) -> None:
    """Later rounds fill in missing rows; a row that is still missing keeps its latest error."""
    job = prepare(tmp_path, ["a", "b", "c"])
    faults = {(0, "row-0"): "expired", (0, "row-2"): "expired", (1, "row-2"): "busy"}
    service = Service(tmp_path, faults)
    index = service.index(job)
    more = write_followup(index)
    index.add(more.shards[1], service.run(more.shards[1]))
    merge(index, tmp_path / "out")
    assert [(row["status"], row["output"]) for row in read_parts(tmp_path / "out")] == [
        ("succeeded", "a"),
        ("succeeded", "b"),
        ("failed", None),
    ]
    assert max(service.paid.values()) == 1
    assert index.unfinished == 1


def test_response_that_failed_inside_is_asked_again(tmp_path: Path) -> None:
    """Its HTTP status is 200, but its body says that it failed."""
    job = prepare(tmp_path, ["a", "b"], endpoint="/v1/responses")
    error = {"code": "server_error", "message": "try again"}
    lines = [
        answered("row-0", {"status": "failed", "error": error, "output": []}),
        answered("row-1", {"status": "completed", "error": None, "output": []}),
    ]
    index = noted(tmp_path, job, lines)
    assert [index.is_unfinished(row) for row in (0, 1)] == [True, False]


def test_nothing_to_ask_again(tmp_path: Path) -> None:
    """Nothing is left to ask: the job stays as it is."""
    job = prepare(tmp_path, ["a"])
    assert write_followup(Service(tmp_path).index(job)) is job


def test_followup_of_embeddings_and_models(tmp_path: Path) -> None:
    """Embedding inputs are counted again and models stay apart."""
    rows = [{"model": f"m{number % 2}", "input": ["x"] * 2} for number in range(6)]
    limits = Limits(max_embedding_inputs=4)
    job = prepare(tmp_path, rows, limits, "/v1/embeddings")
    index = ResultIndex(job, tmp_path)
    for shard in job.shards:
        index.add(shard, [])
    more = write_followup(index)
    fields = ("model", "requests", "embedding_inputs", "bytes", "sha256", "estimated_tokens")
    first, second = (
        sorted([getattr(shard, field) for field in fields] for shard in more.shards_of(number))
        for number in (0, 1)
    )
    assert first == second


def test_forgotten_shard(tmp_path: Path) -> None:
    """Rows whose results were not looked at are not asked, and paid for, again; nor are they written."""
    job = prepare(tmp_path, ["a", "b"], Limits(max_requests=1))
    index = ResultIndex(job, tmp_path)
    index.add(job.shards[0], [])
    more = write_followup(index)
    assert [list(read_ids(tmp_path, shard)) for shard in more.shards_of(1)] == [[(0, "row-0")]]
    assert write_followup(index) is more
    with pytest.raises(InvalidInputError, match="results of the shards 1, 2 were not added"):
        merge(index, tmp_path / "out")


def test_rejected_batch(tmp_path: Path) -> None:
    """Rows of a batch that the service rejected say why, and are not asked again."""
    job = prepare(tmp_path, ["a", "b"], Limits(max_requests=1))
    index = ResultIndex(job, tmp_path)
    index.reject(job.shards[0], RowError("invalid_model", "There is no model m."))
    index.add(job.shards[1], Service(tmp_path).run(job.shards[1]))
    assert index.unfinished == 0
    merged = merge(index, tmp_path / "out")
    first, second = read_parts(tmp_path / "out")
    assert (first["status"], first["error"]["code"], second["status"]) == (
        "failed",
        "invalid_model",
        "succeeded",
    )
    assert merged.errors["invalid_model"].count == 1


def test_invalid_answers_are_asked_again_if_wanted(tmp_path: Path) -> None:
    """A better answer replaces the first one, a worse one does not; both were paid for."""
    schema = OutputSchema({"type": "object"}, strict=False)
    job = prepare(tmp_path, ["a", "b"], schema=schema)
    lines = [answered("row-0", chat("no")), answered("row-1", chat("bad"))]
    assert noted(tmp_path, job, lines).unfinished == 0
    index = noted(tmp_path, job, lines, retry_invalid=schema)
    assert index.unfinished == 2
    more = write_followup(index)
    again = write_lines(
        tmp_path / "again.jsonl", [answered("row-0", chat("{}")), failed("row-1", "batch_expired")]
    )
    index.add(more.shards[1], [again])
    assert index.unfinished == 1
    merged = merge(index, tmp_path / "out", schema=schema)
    assert [(row["status"], row["output"]) for row in read_parts(tmp_path / "out")] == [
        ("succeeded", {}),
        ("invalid_output", "bad"),
    ]
    assert merged.usage.total_tokens == 15


def test_rounds_without_end_end(tmp_path: Path) -> None:
    """However many are allowed, a request that fails each time is not asked for ever."""
    job = prepare(tmp_path, ["a"])
    index = ResultIndex(job, tmp_path)
    index.add(job.shards[0], [])
    while len(job.shards) < 300 and (more := write_followup(index, 1_000)) is not job:
        job = more
        index.add(job.shards[-1], [])
    assert len(job.shards) == 255
