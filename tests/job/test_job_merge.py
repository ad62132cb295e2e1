"""Unordered results into ordered parts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest
from jobkit import CHAT, USAGE, Service, answered, chat, failed, noted, prepare, read_parts, write_lines
from upath import UPath

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data import result_files
from airflow_provider_openai_batches.inference.data.findings import Scan
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, Limits
from airflow_provider_openai_batches.inference.data.manifest import ErrorGroup
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.row_results import MAX_ERROR_CODES
from airflow_provider_openai_batches.storage import whole

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = {
    "input_tokens": 3,
    "cached_tokens": 0,
    "output_tokens": 2,
    "reasoning_tokens": 0,
    "total_tokens": 5,
    "cache_write_tokens": 0,
}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_row(tmp_path: Path) -> None:
    """The columns of a row: its id, the kept columns, and its result."""
    rows = [{"k": "a", "day": [1, {"x": None}], "n": 1.5}, {"k": "b", "day": "é\u2028", "n": 2}]
    job = prepare(tmp_path, rows, body="Say {k}", id_column="k", keep_columns=["day", "n"])
    index = noted(tmp_path, job, [failed("b", "batch_expired"), answered("a", chat("A"))])
    merged = merge(index, tmp_path / "out")
    first, second = read_parts(tmp_path / "out")
    assert list(first.items()) == [
        ("custom_id", "a"),
        ("day", [1, {"x": None}]),
        ("n", 1.5),
        ("status", "succeeded"),
        ("output", "A"),
        ("usage", TOKENS),
        ("error", None),
        ("finish_reason", None),
    ]
    assert second == {
        "custom_id": "b",
        "day": "é\u2028",
        "n": 2,
        "status": "expired",
        "output": None,
        "usage": None,
        "error": {"code": "batch_expired", "message": "It was batch_expired."},
        "finish_reason": None,
    }
    assert merged.counts == {
        "succeeded": 1,
        "failed": 0,
        "invalid_output": 0,
        "expired": 1,
        "cancelled": 0,
        "missing": 0,
    }
    assert merged.errors == {"batch_expired": ErrorGroup(1, "It was batch_expired.", "b")}
    assert (merged.usage.input_tokens, merged.usage.total_tokens) == (3, 5)


def test_parts(tmp_path: Path) -> None:
    """Parts of a given number of rows, with their sizes; nothing else is left in the directory."""
    job = prepare(tmp_path, [f"p{number}" for number in range(7)], Limits(max_requests=2))
    merged = merge(Service(tmp_path).index(job), tmp_path / "out", rows_per_part=3)
    assert [(part.file, part.rows) for part in merged.parts] == [
        ("part-00000.jsonl", 3),
        ("part-00001.jsonl", 3),
        ("part-00002.jsonl", 1),
    ]
    for part in merged.parts:
        assert (tmp_path / "out" / part.file).stat().st_size == part.bytes
    assert names(tmp_path / "out") == [part.file for part in merged.parts]
    assert [row["output"] for row in read_parts(tmp_path / "out")] == [f"p{number}" for number in range(7)]


def test_parts_of_an_earlier_job_go(tmp_path: Path) -> None:
    """Manifest and parts of an earlier, larger job are removed: they would be read as part of this one."""
    out = tmp_path / "out"
    out.mkdir()
    killed = f".part-00000.jsonl.{'0' * 32}.part"  # a process that was killed while it wrote leaves this
    for name in (
        "manifest.json",
        "part-00001.jsonl",
        "part-00000.parquet",
        "unreadable.txt",
        "mine.txt",
        killed,
    ):
        (out / name).write_text("old")
    merge(Service(tmp_path).index(prepare(tmp_path, ["x"])), out)
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt", "part-00000.jsonl"]


def test_lines_that_are_nobodys(tmp_path: Path) -> None:
    """Unknown and duplicate ids and lines that are not JSON are counted, kept aside, and change no row."""
    job = prepare(tmp_path, ["x", "y", "z"])
    index = noted(
        tmp_path,
        job,
        [
            b"<html>Bad Gateway</html>",
            answered("row-1", chat("first")),
            answered("row-9", chat("unknown")),
            b"",
            answered("row-1", chat("second")),
            failed("row-0", "batch_expired"),
            answered("row-0", chat("after the failure")),
            failed("row-1", "batch_expired"),
            b'{"custom_id": "row-2", "response": {"status_co',
        ],
    )
    assert index.scan == Scan(lines=6, unreadable=2, unknown=1, duplicates=3)
    merged = merge(index, tmp_path / "out")
    assert merged.scan == index.scan
    assert [(row["status"], row["output"]) for row in read_parts(tmp_path / "out")] == [
        ("succeeded", "after the failure"),
        ("succeeded", "first"),
        ("missing", None),
    ]
    assert (tmp_path / "out" / "unreadable.txt").read_bytes() == (
        b'<html>Bad Gateway</html>\n{"custom_id": "row-2", "response": {"status_co\n'
    )
    assert merged.usage.total_tokens == 15  # the answer that is not used was paid for too


def test_results_of_another_shard_are_unknown(tmp_path: Path) -> None:
    """A result is matched only with the requests of its own batch."""
    job = prepare(tmp_path, ["x", "y"], Limits(max_requests=1))
    index = ResultIndex(job, tmp_path)
    index.add(job.shards[0], [write_lines(tmp_path / "0.jsonl", [answered("row-1", chat("wrong"))])])
    index.add(job.shards[1], [])
    assert index.scan.unknown == 1
    merge(index, tmp_path / "out")
    assert [row["status"] for row in read_parts(tmp_path / "out")] == ["missing", "missing"]


def test_whole_bodies(tmp_path: Path) -> None:
    """output="body" passes on every byte of the body."""
    job = prepare(tmp_path, ["a"])
    merge(
        noted(tmp_path, job, [answered("row-0", {"x": 1.10, **chat("A")})]), tmp_path / "out", output="body"
    )
    (row,) = read_parts(tmp_path / "out")
    assert row["output"] == {"x": 1.1, **chat("A")}
    assert row["usage"]["total_tokens"] == USAGE["total_tokens"]


def test_embeddings_keep_their_digits(tmp_path: Path) -> None:
    """Numbers are passed on as they were written."""
    job = prepare(tmp_path, ["a"], endpoint="/v1/embeddings")
    body = b'{"data":[{"embedding":[0.10, 1e-9,-0]}]}'
    line = b'{"custom_id":"row-0","response":{"status_code":200,"body":%b}}' % body
    merge(noted(tmp_path, job, [line]), tmp_path / "out")
    assert b'"output":[0.10, 1e-9,-0],' in (tmp_path / "out" / "part-00000.jsonl").read_bytes()


def test_many_error_codes(tmp_path: Path) -> None:
    """The number of groups is limited, whatever codes a server makes up."""
    count = MAX_ERROR_CODES + 5
    job = prepare(tmp_path, ["x"] * count)
    lines = [failed(f"row-{number}", f"code-{number}") for number in range(count)]
    errors = merge(noted(tmp_path, job, lines), tmp_path / "out").errors
    assert len(errors) == MAX_ERROR_CODES + 1
    assert errors["other"].count == 5


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    """A merge that fails leaves no part, and no piece of one."""
    job = prepare(tmp_path, ["a", "b"])
    index = noted(tmp_path, job, [answered("row-0", chat("A")), answered("row-1", chat("B"))])
    (tmp_path / "output.jsonl").write_bytes(answered("row-0", chat("A")) + b"\n")
    with pytest.raises(InvalidInputError, match=r"output\.jsonl was changed"):
        merge(index, tmp_path / "out")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("in_store", [False, True])
def test_file_that_is_not_finished(tmp_path: Path, in_store: bool) -> None:
    """An old file stays as it was until the new one is complete."""
    folder = UPath("memory:///whole") if in_store else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_bytes(b"old")

    def stop(handle: BinaryIO) -> None:
        handle.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), whole(folder / "a") as handle:
        stop(handle)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_bytes() == b"old"
    with whole(folder / "a") as handle:
        handle.write(b"new")
    assert (folder / "a").read_bytes() == b"new"


def test_everything_in_a_store(tmp_path: Path) -> None:
    """Work directory, results and parts may be in an object store."""
    work = UPath("memory:///merge")
    job = prepare(work, ["a", "b"])
    (work / "output.jsonl").write_bytes(b"".join(answered(f"row-{n}", chat(f"A{n}")) + b"\n" for n in (1, 0)))
    index = ResultIndex(job, work)
    index.add(job.shards[0], [work / "output.jsonl"])
    merge(index, work / "out")
    lines = (work / "out" / "part-00000.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["output"] for line in lines] == ["A0", "A1"]


def test_more_result_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few files are open at a time."""
    monkeypatch.setattr(result_files, "_OPEN_FILES", 2)
    index = ResultIndex(prepare(tmp_path, ["a"]), tmp_path)
    index.files.extend(write_lines(tmp_path / str(n), [b"%d" % n]) for n in range(5))
    with result_files.ResultFiles(index) as files:
        assert [files.read(n, 0, 1) for n in (0, 1, 2, 3, 4, 0)] == [b"0", b"1", b"2", b"3", b"4", b"0"]
        assert len(files._open) == 2
    job = prepare(tmp_path, [f"p{number}" for number in range(150)], Limits(max_requests=1))
    merged = merge(Service(tmp_path).index(job), tmp_path / "out")
    assert merged.counts["succeeded"] == 150
    assert [row["output"] for row in read_parts(tmp_path / "out")] == [f"p{number}" for number in range(150)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "json"}, "output is 'json': it must be 'text' or 'body'"),
        ({"output_format": "csv"}, "output_format is 'csv': it must be 'jsonl' or 'parquet'"),
        ({"rows_per_part": 0}, "rows_per_part is 0"),
    ],
)
def test_faulty_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Unknown values are refused before anything is written."""
    with pytest.raises(InvalidInputError, match=message):
        merge(ResultIndex(prepare(tmp_path, ["a"]), tmp_path), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_azure_paths(tmp_path: Path) -> None:
    """An endpoint without /v1, as Azure has it, is read in the same way."""
    job = prepare(tmp_path, ["a"], endpoint=CHAT.removeprefix("/v1"))
    merge(noted(tmp_path, job, [answered("row-0", chat("A"))]), tmp_path / "out")
    assert read_parts(tmp_path / "out")[0]["output"] == "A"


def test_strings_are_paths(tmp_path: Path) -> None:
    """Work directory, result files and target may be given as strings."""
    work = str(tmp_path / "work")
    prepare(work, ["a"])
    job = Job.load(work)
    assert job is not None
    index = ResultIndex(job, work)
    index.add(job.shards[0], [str(write_lines(tmp_path / "output.jsonl", [answered("row-0", chat("A"))]))])
    merge(index, str(tmp_path / "out"))
    assert read_parts(tmp_path / "out")[0]["output"] == "A"


def test_cut_answers_are_counted(tmp_path: Path) -> None:
    """Those that have a text, and those that have none; all others have no mark."""
    job = prepare(tmp_path, ["a", "b", "c", "d"])
    contents = {"row-0": ("half", "length"), "row-1": ("", "length"), "row-2": ("whole", "stop")}
    lines = []
    for custom_id, (content, reason) in contents.items():
        body = chat(content)
        body["choices"][0]["finish_reason"] = reason
        lines.append(answered(custom_id, body))
    merged = merge(noted(tmp_path, job, lines), tmp_path / "out")
    assert merged.truncated == 2
    rows = read_parts(tmp_path / "out")
    assert [row["finish_reason"] for row in rows] == ["length", "length", None, None]
    assert [row["status"] for row in rows] == ["succeeded", "failed", "succeeded", "missing"]
    assert merged.errors["truncated"].count == 1
    assert merged.usage.total_tokens == 15
