"""An input file is read whole before a byte of it is sent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

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
        (b"\xff\n", "not a request line"),
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
