"""Result files with any bytes in them: a bad line costs at most its own row, and is not paid for twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jobkit import answered, chat, noted, prepare, read_parts

from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.inference.data.index import ResultIndex

GOOD = answered("row-1", chat("B"))
DEEP = b"[" * 100_000


def landed(
    work: Path, line: bytes, output: str = "text", endpoint: str = "/v1/chat/completions", **options: Any
) -> tuple[ResultIndex, list[dict[str, Any]]]:
    """Land three rows whose middle line is this one."""
    rows = ["a", "b", "c"]
    job = prepare(work, rows, endpoint=endpoint)
    lines = [answered("row-0", chat("A")), line, answered("row-2", chat("C"))]
    index = noted(work, job, lines, **options)
    merge(index, work / "out", output=output)
    return index, read_parts(work / "out")


def body_with(text: bytes, where: bytes = b'"B"') -> bytes:
    """A good line in whose JSON these bytes stand for the answer."""
    return GOOD.replace(where, text)


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id": 7, "resp',
        b'{"custom_id": "row-1", "response": {"status_code": 200, "bo',
        b"502 Bad Gateway",
        b"[core]",
        b"1e400",
        b"9" * 6_000,
        b"\x00\xff\xfe",
        DEEP,
        b'{"a":' * 100_000,
        b'{"custom_id": 1, "x": ' + DEEP,
    ],
    ids=lambda line: line[:12].decode("latin-1"),
)
@pytest.mark.parametrize("output", ["text", "body"])
def test_line_that_is_nobodys_costs_nothing(tmp_path: Path, line: bytes, output: str) -> None:
    """The others are there, this row is asked again, and the bytes are kept."""
    index, rows = landed(tmp_path, line, output)
    assert [row["status"] for row in rows] == ["succeeded", "missing", "succeeded"]
    assert (index.scan.unreadable, index.unfinished) == (1, 1)
    assert (tmp_path / "out" / "unreadable.txt").read_bytes() == line + b"\n"


@pytest.mark.parametrize(
    "line", [GOOD[:-30], GOOD.replace(b'"B"', DEEP), GOOD.replace(b'"B"', b'"B'), GOOD.replace(b"}", b"")]
)
@pytest.mark.parametrize("output", ["text", "body"])
def test_answer_that_cannot_be_read(tmp_path: Path, line: bytes, output: str) -> None:
    """It came, so it was paid for: the row has its text, and is not asked again."""
    index, rows = landed(tmp_path, line, output)
    assert [row["status"] for row in rows] == ["succeeded", "failed", "succeeded"]
    assert rows[1]["error"]["code"] == "unreadable"
    assert rows[1]["output"] == line.decode("utf-8", "replace")
    assert index.unfinished == 0
    assert (tmp_path / "out" / "unreadable.txt").read_bytes() == line + b"\n"


@pytest.mark.parametrize(
    ("line", "again"),
    [
        (answered("row-1", {"error": {"message": "busy"}}, 503)[:-20], True),
        (answered("row-1", {"error": {"message": "wrong"}}, 400)[:-20], False),
    ],
)
def test_cut_line_of_a_failure(tmp_path: Path, line: bytes, again: bool) -> None:
    """What a cut line still says of its failure decides whether it is asked again."""
    index, rows = landed(tmp_path, line)
    assert rows[1]["status"] == "failed"
    assert index.is_unfinished(1) is again


@pytest.mark.parametrize(
    ("line", "output"),
    [
        (body_with(b'"a\xffb"'), "a\ufffdb"),
        (body_with(b'"a\\ud800b"'), "a\ufffdb"),
        (body_with(b'"\\udc00\\ud83d\\ude00"'), "\ufffd\U0001f600"),
        (body_with(b'"a\x01b"'), "a\x01b"),
        (body_with(b'"B", "score": NaN'), "B"),
        (body_with(b'"B", "score": -Infinity'), "B"),
        (body_with(b'"B", "score": 1e400'), "B"),
        (body_with(b'"B", "score": ' + b"9" * 6_000), "B"),
        (body_with(b'"B", "note": "\xff"'), "B"),
        (b"\xef\xbb\xbf" + GOOD, "B"),
    ],
)
@pytest.mark.parametrize("can_fail_inside", [False, True])
def test_what_a_tolerant_reader_reads_is_read(
    tmp_path: Path, line: bytes, output: str, can_fail_inside: bool
) -> None:
    """The answer is there with its usage, and the row is not asked again."""
    if can_fail_inside:
        line = line.replace(b'"status_code": 200', b'"status_code": null')
    index, rows = landed(tmp_path, line)
    assert (rows[1]["status"], rows[1]["output"]) == ("succeeded", output)
    assert rows[1]["usage"]["total_tokens"] == 5
    assert index.unfinished == index.scan.unreadable == 0


def test_bytes_in_an_error(tmp_path: Path) -> None:
    """The service's words are read in the same way."""
    line = answered("row-1", {"error": {"code": "c", "message": "X"}}, 400).replace(b'"X"', b'"a\xff"')
    _, rows = landed(tmp_path, line)
    assert rows[1]["error"] == {"code": "c", "message": "a\ufffd"}


def test_bytes_in_what_is_passed_on_unread(tmp_path: Path) -> None:
    """Bodies and results that nobody decodes are UTF-8 in the parts."""
    line = answered("row-1", {"results": [{"flagged": "X"}]}).replace(b"X", b"\xff")
    for output in ("text", "body"):
        _, rows = landed(tmp_path, line, output, "/v1/moderations")
        assert "\ufffd" in json.dumps(rows[1]["output"], ensure_ascii=False)


def test_json_in_an_answer_with_a_lone_surrogate(tmp_path: Path) -> None:
    """The text of a structured answer is read as tolerantly as the line around it."""
    schema = OutputSchema({"type": "object", "required": ["label"]}, strict=False)
    assert schema.check('{"label": "a\\ud800"}') == ({"label": "a\ufffd"}, None)


pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\xff", b"\\ud800", b"NaN", b"1e400", b'"', b"{", b"[" * 2_000, b"\\", b"null", b"7"]),
).map(lambda piece: piece.replace(b"\n", b" "))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    line=st.sampled_from(
        [GOOD, GOOD.replace(b'"row-1"', b"1"), answered("row-1", {"error": {"code": "c"}}, 429)]
    ),
    start=st.integers(0, 400),
    length=st.integers(0, 40),
    piece=pieces,
    output=st.sampled_from(["text", "body"]),
    endpoint=st.sampled_from(["chat/completions", "responses", "embeddings", "moderations", "videos"]),
    with_schema=st.booleans(),
)
def test_a_spoilt_line_costs_its_own_row_alone(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    line: bytes,
    start: int,
    length: int,
    piece: bytes,
    output: str,
    endpoint: str,
    with_schema: bool,
) -> None:
    """Any bytes in any place: the parts are written and are UTF-8 JSON, and the others are as they were."""
    work = tmp_path_factory.mktemp("bytes")
    spoilt = line[:start] + piece + line[start + length :]
    assume(b"row-0" not in spoilt and b"row-2" not in spoilt)
    options: dict[str, Any] = {}
    if with_schema and endpoint in {"chat/completions", "responses"}:
        options["retry_invalid"] = OutputSchema({"type": "object"}, strict=False)
    index, rows = landed(work, spoilt, output, f"/v1/{endpoint}", **options)
    merge(index, work / "parquet", output=output, output_format="parquet")
    _, expected = landed(tmp_path_factory.mktemp("good"), GOOD, output, f"/v1/{endpoint}", **options)
    assert [rows[0], rows[2]] == [expected[0], expected[2]]
    for part in (work / "out").glob("part-*"):
        part.read_text(encoding="utf-8")
    if rows[1]["status"] == "succeeded":
        assert not index.is_unfinished(1) or options
    msgspec.json.encode(rows)
