"""An input file is read whole before a byte of it is sent."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api import validation
from airflow_provider_openai_batches.exceptions import InvalidInputError

ENDPOINT = "/v1/chat/completions"


def line(custom_id: object = "a", url: str = ENDPOINT, body: Any = None, **more: Any) -> bytes:
    body = {"model": "m", "messages": []} if body is None else body
    return (
        json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}).encode()
        + b"\n"
    )


def test_a_good_file_is_summed_up() -> None:
    """The summary has requests, bytes, digest and model."""
    lines = [line("a"), line("b")]
    summary = validation.check_input(lines, ENDPOINT, "in.jsonl")
    content = b"".join(lines)
    assert (summary.requests, summary.bytes, summary.model) == (2, len(content), "m")
    assert summary.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (b"{nope}\n", "not a request line"),
        (b"\n", "the line is empty"),
        (b"[]\n", "not a request line"),
        (b"\xff\n", "byte 1 of the line .0xff. is not UTF-8"),
        (b'{"method":"POST","url":"x","body":{}}\n', "custom_id"),
        (line(""), "custom_id is empty"),
        (line(7), "custom_id"),
        (line("a"), "'a' is already used on line 1"),
        (
            line("b", url="/v1/responses"),
            "url is '/v1/responses', but the batch's endpoint is '/v1/chat/completions'",
        ),
        (line("b", method="GET"), "method is 'GET'"),
        (line("b", body={"model": "n"}), "model is 'n', but on line 1 it is 'm'"),
        (line("b", body=[]), "not a request line"),
    ],
)
def test_a_bad_line_is_named(second: bytes, said: str) -> None:
    """The error has file and line, and what is wrong."""
    with pytest.raises(InvalidInputError, match=rf"^in.jsonl, line 2: .*{said}"):
        validation.check_input([line("a"), second], ENDPOINT, "in.jsonl")


def test_an_empty_file_is_refused() -> None:
    """A file without requests is useless."""
    with pytest.raises(InvalidInputError, match=r"in\.jsonl is empty"):
        validation.check_input([], ENDPOINT, "in.jsonl")


def test_too_many_requests_are_refused() -> None:
    """At the first line over the limit."""
    lines = (line(str(number)) for number in range(60_000))
    with pytest.raises(InvalidInputError, match="line 50001: the file has more than 50,000"):
        validation.check_input(lines, ENDPOINT, "in.jsonl")


def test_too_many_bytes_are_refused() -> None:
    """At the first line over the limit."""
    big = line("a", body={"model": "m", "input": "x" * 110_000_000})
    with pytest.raises(InvalidInputError, match="line 2: the file is larger than 200,000,000"):
        validation.check_input([big, big], ENDPOINT, "in.jsonl")


def test_embedding_inputs_are_counted() -> None:
    """Each text counts; a list of numbers is one tokenised text."""
    body = {"model": "m", "input": ["x"] * 30_000}
    lines = [line(name, url="/v1/embeddings", body=body) for name in "ab"]
    with pytest.raises(InvalidInputError, match="line 2: the file has more than 50,000 embedding inputs"):
        validation.check_input(lines, "/v1/embeddings", "in.jsonl")
    assert (
        validation.check_input(
            [line("a", "/v1/embeddings", {"input": [1] * 60_000})], "/v1/embeddings", "x"
        ).requests
        == 1
    )


@pytest.mark.parametrize("endpoint", ["/chat/completions", "/v1/chat/completions"])
def test_azures_urls_need_no_version(endpoint: str) -> None:
    """As long as the batch's endpoint has none either."""
    assert validation.check_input([line("a", endpoint)], endpoint, "in.jsonl").requests == 1
    other = "/chat/completions" if endpoint.startswith("/v1") else "/v1/chat/completions"
    with pytest.raises(InvalidInputError, match="they must be equal"):
        validation.check_input([line("a", endpoint)], other, "in.jsonl")


def test_embedding_inputs_are_counted_without_a_version_too() -> None:
    lines = [line(name, url="/embeddings", body={"model": "m", "input": ["x"] * 30_000}) for name in "ab"]
    with pytest.raises(InvalidInputError, match="more than 50,000 embedding inputs"):
        validation.check_input(lines, "/embeddings", "in.jsonl")


PROSE = json.dumps(
    {"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": {"model": "m", "x": "caf\u00e9"}},
    ensure_ascii=False,
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PROSE.encode("utf-8-sig"), "begins with a byte order mark .BOM.; save it as UTF-8 without one"),
        (PROSE.encode("utf-16"), "the file is UTF-16; save it as UTF-8"),
        (b"\xfe\xff" + PROSE.encode("utf-16-be"), "the file is UTF-16; save it as UTF-8"),
        (PROSE.encode("utf-16-le"), "NUL bytes: is the file UTF-16"),
        (PROSE.encode("utf-16-be"), "NUL bytes: is the file UTF-16"),
        (PROSE.encode("latin-1"), r"byte \d+ of the line .0xe9. is not UTF-8: is the file Latin-1"),
        (PROSE.encode("cp1252"), "is not UTF-8: is the file Latin-1 or Windows-1252. Save it as UTF-8"),
        (gzip.compress(PROSE.encode(), mtime=0), "compressed with gzip; decompress it first"),
        (b"PAR1", "the file is Parquet; it must be JSONL"),
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        (b'{"custom_id":"a","body":' + b"[" * 100_000, "not a request line"),
    ],
)
def test_a_file_that_is_not_utf_8_is_refused_in_clear_words(content: bytes, said: str) -> None:
    """Letters in a field that is not looked at were passed on, and the model would have read others."""
    with pytest.raises(InvalidInputError, match=rf"^in.jsonl, line 1: .*{said}"):
        validation.check_input(io.BytesIO(content), ENDPOINT, "in.jsonl")


@given(
    st.text(min_size=1).filter(lambda text: not text.isascii()),
    st.sampled_from(["latin-1", "cp1252", "utf-8"]),
)
def test_only_utf_8_passes(text: str, encoding: str) -> None:
    """In any field, at any place of the file."""
    request = {"custom_id": "b", "method": "POST", "url": ENDPOINT, "body": {"model": "m", "x": text}}
    encoded = json.dumps(request, ensure_ascii=False).encode(encoding, "replace")
    try:
        is_good = encoded.decode() is not None
    except UnicodeDecodeError:
        is_good = False
    if is_good:
        assert validation.check_input([line("a"), encoded], ENDPOINT, "in.jsonl").requests == 2
    else:
        with pytest.raises(InvalidInputError, match="line 2: byte"):
            validation.check_input([line("a"), encoded], ENDPOINT, "in.jsonl")


class Endless(io.RawIOBase):
    """A file of one line that has no end; how much of it was asked for."""

    asked = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size < 300_000_000
        self.asked += size
        return b" " * size


def test_a_line_without_an_end_is_not_read_to_its_end() -> None:
    """A file of 50 GB without line ends would fill the memory."""
    file = Endless()
    with pytest.raises(InvalidInputError, match="line 1: the file is larger than 200,000,000 bytes"):
        validation.check_input(file, ENDPOINT, "in.jsonl")
    assert file.asked < 210_000_000


class StoreFile(io.BytesIO):
    """A file object as fsspec's are: ``readline`` takes no size, and a read may bring less than was asked."""

    pieces = 1 << 30

    def readline(self) -> bytes:  # type: ignore[override]
        raise AssertionError

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(self.pieces, size) if size and size > 0 else size)


def test_a_file_in_a_store_is_read() -> None:
    """Its file object has less than one of the standard library."""
    content = line("a") + line("b").rstrip(b"\n")
    summary = validation.check_input(StoreFile(content), ENDPOINT, "in.jsonl")
    assert (summary.requests, summary.sha256) == (2, hashlib.sha256(content).hexdigest())


@given(
    content=st.lists(st.sampled_from([b"\n", b"\r", b"a", b"\xc3\xa4", b"\n\n", b"\x0b\x1c", b"bcd"])).map(
        b"".join
    ),
    size=st.integers(1, 9),
)
def test_lines_are_those_of_the_file(content: bytes, size: int) -> None:
    """However it comes: only a line feed ends a line."""
    file = StoreFile(content)
    file.pieces = size
    assert list(validation.lines_of(file)) == list(io.BytesIO(content))


def test_a_line_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it is read than says that it is too long."""
    monkeypatch.setattr(validation, "MAX_FILE_BYTES", 3_000_000)
    file = io.BytesIO(b"a\n" + b"x" * 50_000_000)
    short, long = validation.lines_of(file)
    assert (short, len(long) > 3_000_000) == (b"a\n", True)
    assert file.tell() < 6_000_000
