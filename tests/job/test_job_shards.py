"""Request files within limits."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobkit import prepare
from upath import UPath

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import Job, Limits, read_ids
from airflow_provider_openai_batches.inference.data.shards import MAX_MODELS

if TYPE_CHECKING:
    from pathlib import Path

EMBEDDINGS = "/v1/embeddings"


def lines_of(work: Path, job: Job) -> list[list[dict[str, Any]]]:
    return [
        [json.loads(line) for line in (work / shard.file).read_bytes().splitlines()] for shard in job.shards
    ]


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=30)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    max_requests=st.integers(1, 8),
    max_bytes=st.integers(600, 2_000),
    inputs=st.integers(3, 9),
    data=st.data(),
)
def test_each_request_once_within_all_limits(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    max_requests: int,
    max_bytes: int,
    inputs: int,
    data: Any,
) -> None:
    """Whatever the rows: every request is in one file, in order, with one model, and no limit is passed."""
    work = tmp_path_factory.mktemp("work")
    limits = Limits(max_requests=max_requests, max_bytes=max_bytes, max_embedding_inputs=inputs)
    bodies = [
        {"model": model, "input": [text] * count if count else text}
        for (model, text), count in zip(
            rows, data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))), strict=True
        )
    ]
    job = prepare(work, bodies, limits, EMBEDDINGS, model=None)
    seen: dict[int, Any] = {}
    for shard, lines in zip(job.shards, lines_of(work, job), strict=True):
        raw = (work / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert len(raw) <= max_bytes
        assert shard.requests == len(lines) <= max_requests
        assert shard.embedding_inputs <= inputs
        assert {line["body"]["model"] for line in lines} == {shard.model}
        ids = list(read_ids(work, shard))
        assert [custom_id for _, custom_id in ids] == [line["custom_id"] for line in lines]
        assert (ids, ids[0][0], ids[-1][0]) == (sorted(ids), shard.first_row, shard.last_row)
        for (row, _), line in zip(ids, lines, strict=True):
            assert row not in seen
            seen[row] = line
    assert [seen[row]["body"] for row in range(len(rows))] == bodies
    assert job.rows == len(rows)
    assert Job.load(work) == job


def test_line(tmp_path: Path) -> None:
    """The line is that of the API reference, with the body's keys in their order."""
    prepare(tmp_path, [{"messages": [], "seed": 1, "model": "é"}])
    assert (tmp_path / "shard-00000.jsonl").read_bytes() == (
        '{"custom_id":"row-0","method":"POST","url":"/v1/chat/completions",'
        '"body":{"messages":[],"seed":1,"model":"é"}}\n'
    ).encode()


def test_files_are_no_larger_than_they_must_be(tmp_path: Path) -> None:
    """A new file begins only when the next request would pass a limit."""
    job = prepare(tmp_path, ["x"] * 10, Limits(max_requests=4))
    assert [shard.requests for shard in job.shards] == [4, 4, 2]
    size = job.shards[0].bytes
    exact = prepare(tmp_path, ["x"] * 10, Limits(max_bytes=size))
    assert [shard.requests for shard in exact.shards] == [4, 4, 2]
    less = prepare(tmp_path, ["x"] * 10, Limits(max_bytes=size - 1))
    assert [shard.requests for shard in less.shards] == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1)],
)
def test_embedding_inputs(tmp_path: Path, given: Any, inputs: int) -> None:
    """Each text and each list of tokens counts; a single list of tokens counts once."""
    assert prepare(tmp_path, [{"input": given}], endpoint=EMBEDDINGS).shards[0].embedding_inputs == inputs


def test_one_file_a_model(tmp_path: Path) -> None:
    """Rows whose models take turns do not need a file each."""
    rows = [{"messages": [], "model": f"m{number % 2}"} for number in range(6)]
    job = prepare(tmp_path, rows, Limits(max_requests=2))
    assert [(s.model, s.requests, s.first_row, s.last_row) for s in job.shards] == [
        ("m0", 2, 0, 2),
        ("m1", 2, 1, 3),
        ("m0", 1, 4, 4),
        ("m1", 1, 5, 5),
    ]


def test_shards_are_in_the_order_of_their_beginnings(tmp_path: Path) -> None:
    """A file that was begun later comes later, even if it is full earlier."""
    rows: list[dict[str, Any]] = [{"messages": [], "model": model} for model in ("m0", "m1", "m1", "m1")]
    job = prepare(tmp_path, rows, Limits(max_requests=2))
    assert [(s.index, s.model, s.first_row) for s in job.shards] == [(0, "m0", 0), (1, "m1", 1), (2, "m1", 3)]


@given(
    st.lists(st.tuples(st.sampled_from("mn"), st.sampled_from([None, "given", "row-9", "own"])), min_size=1),
    st.integers(1, 5),
)
def test_ids_are_read_as_they_were_given_or_not(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str | None]], most: int
) -> None:
    """In any mixture, over several files and models; consecutive rows share a line."""
    work = tmp_path_factory.mktemp("ids")
    requests, expected = [], {}
    for number, (model, kind) in enumerate(rows):
        name = {"given": f"id-{number}", "row-9": f"row-{number + 900}", "own": f"row-{number}"}.get(
            kind or ""
        )
        body = {"model": model, "messages": []}
        requests.append(body if name is None else {"custom_id": name, "body": body})
        expected[number] = name or f"row-{number}"
    job = prepare(work, requests, Limits(max_requests=most))
    found = [pair for shard in job.shards for pair in read_ids(work, shard)]
    assert dict(found) == expected
    assert len(found) == len(rows)
    for shard in job.shards:
        lines = (work / shard.file).read_bytes().splitlines()
        assert [json.loads(line)["custom_id"] for line in lines] == [
            name for _, name in read_ids(work, shard)
        ]


def test_the_ids_that_rows_have_of_themselves_take_a_line_a_file(tmp_path: Path) -> None:
    """A run takes one line, however many rows it has."""
    job = prepare(tmp_path, map(str, range(1_000)))
    assert (tmp_path / job.shards[0].ids_file).read_bytes() == b"[0,1000]\n"


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    """The same rows give the same files and digest; another row, order or endpoint gives another digest."""

    def made(name: str, rows: list[str], **options: Any) -> tuple[str, list[str]]:
        job = prepare(tmp_path / name, rows, Limits(max_requests=2), **options)
        return job.digest, [shard.sha256 for shard in job.shards]

    first = made("a", ["x", "y", "z"])
    assert made("b", ["x", "y", "z"]) == first
    assert made("a", ["x", "y", "z"]) == first
    others = [
        made("c", ["x", "z", "y"]),
        made("d", ["x", "y"]),
        made("e", ["x", "y", "z"], endpoint="/chat/completions"),
    ]
    assert len({first[0], *(digest for digest, _ in others)}) == 4


def test_estimated_tokens(tmp_path: Path) -> None:
    """Four bytes of a body are a token."""
    job = prepare(tmp_path, ["x" * 4_000] * 2)
    assert 2_000 <= job.estimated_tokens <= 2_040


def test_a_crash_leaves_no_job(tmp_path: Path) -> None:
    """job.json is written last: a job whose files are incomplete is not found."""
    prepare(tmp_path, ["x"])
    with pytest.raises(InvalidInputError, match="Row 1"):
        prepare(tmp_path, ["x", 7])
    assert Job.load(tmp_path) is None


def test_damaged_job(tmp_path: Path) -> None:
    """The error names the file and what to do."""
    prepare(tmp_path, ["x"])
    (tmp_path / "job.json").write_text('{"rows": 1')
    with pytest.raises(InvalidInputError, match=r"job\.json is damaged: .* Delete it"):
        Job.load(tmp_path)


def test_work_directory_in_a_store() -> None:
    """The files may be in any store of fsspec."""
    work = UPath("memory:///work")
    job = prepare(work, ["x", "y"])
    assert Job.load(work) == job
    assert list(read_ids(work, job.shards[0])) == [(0, "row-0"), (1, "row-1")]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "The job has no rows"),
        (
            ["x", "y" * 300],
            {"limits": Limits(max_bytes=300)},
            "Row 1 is 4.. bytes as a request, but a file may have 300",
        ),
        (
            [{"input": ["a"] * 4}],
            {"endpoint": EMBEDDINGS, "limits": Limits(max_embedding_inputs=3)},
            "Row 0 has 4 embedding inputs, but a file may have 3",
        ),
        (
            [{"k": "a"}, {"k": "b"}, {"k": "a"}],
            {"body": "{k}", "id_column": "k"},
            "Rows 0 and 2 have the same custom_id 'a'",
        ),
        (
            [{"custom_id": "row-1", "body": {"messages": []}}, "a prompt"],
            {},
            "Rows 0 and 1 have the same custom_id 'row-1'",
        ),
        (
            ["a prompt", {"custom_id": "row-0", "body": {"messages": []}}],
            {},
            "Rows 0 and 1 have the same custom_id 'row-0'",
        ),
        (
            [{"k": "row-1"}, {"k": 2}, {"k": "2"}],
            {"body": "x", "id_column": "k"},
            "Rows 1 and 2 have the same custom_id '2'",
        ),
        (
            [{"messages": [{"content": [1, object()]}]}],
            {},
            r"Row 0: body\.messages\[0\]\.content\[1\] is not JSON: .*object",
        ),
        ([{"messages": [{"content": "\ud800"}]}], {}, r"Row 0: body\.messages\[0\]\.content is not JSON"),
        ([{"messages": {(1, 2): 3}}], {}, r"Row 0: body\.messages is not JSON"),
        ([{"k": "a", "d": object()}], {"body": "{k}", "keep_columns": ["d"]}, r"Row 0: kept\.d is not JSON"),
        ([{"k": "\ud800"}], {"body": "x", "id_column": "k"}, r"Row 0 .*: custom_id is not JSON"),
    ],
)
def test_refused(tmp_path: Path, rows: list[Any], options: dict[str, Any], message: str) -> None:
    """The error has the row's number, and the field if one is to blame."""
    with pytest.raises(InvalidInputError, match=message):
        prepare(tmp_path, rows, **options)


def test_endless_structure(tmp_path: Path) -> None:
    """A body that contains itself does not crash the worker."""
    body: dict[str, Any] = {"messages": []}
    body["messages"].append(body)
    with pytest.raises(InvalidInputError, match="Row 0: body"):
        prepare(tmp_path, [body])


def test_too_many_rows(tmp_path: Path) -> None:
    """The first row over the limit ends the job; the rows behind it are not even taken."""
    rows = iter("abcde")
    with pytest.raises(InvalidInputError, match="more than max_requests=2 rows: nothing was sent"):
        prepare(tmp_path, rows, max_requests=2)
    assert list(rows) == ["d", "e"]
    assert prepare(tmp_path, ["a", "b"], max_requests=2).rows == 2


def test_too_many_models(tmp_path: Path) -> None:
    """A wrong column for the model does not open a file for each row."""
    rows = [{"messages": [], "model": f"m{number}"} for number in range(MAX_MODELS + 1)]
    with pytest.raises(
        InvalidInputError, match="Row 100 has the model 'm100': a job may have at most 100 models"
    ):
        prepare(tmp_path, rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_requests": 50_001}, "max_requests is 50001: it must be 1 to 50000"),
        ({"max_bytes": 0}, "max_bytes is 0: it must be 1 to 200000000"),
        ({"max_embedding_inputs": 10**6}, "max_embedding_inputs is 1000000: it must be 1 to 50000"),
    ],
)
def test_limits(options: dict[str, int], message: str) -> None:
    """Limits above the service's own are refused, and so are limits below 1."""
    with pytest.raises(InvalidInputError, match=message):
        Limits(**options)
