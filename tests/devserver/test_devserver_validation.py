"""An invalid input file makes its batch fail, with the line and the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devserver_api import Api

    from airflow_provider_openai_batches.devserver import DevServer


def lines(*changes: dict[str, Any]) -> bytes:
    base = {"method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}
    documents = [{"custom_id": f"r{number}"} | base | change for number, change in enumerate(changes)]
    kept = [{name: value for name, value in document.items() if value != "-"} for document in documents]
    return b"".join(json.dumps(document).encode() + b"\n" for document in kept)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ("empty_file", None, None)),
        (b"\n \n", ("empty_file", None, None)),
        (lines({}) + b"{oops\n", ("invalid_json_line", 2, None)),
        (lines({}) + b"[]\n", ("invalid_json_line", 2, None)),
        (b"\xff\n", ("invalid_json_line", 1, None)),
        (lines({}, {"url": "/v1/responses"}), ("url_mismatch", 2, "url")),
        (lines({"custom_id": "a"}, {}, {"custom_id": "a"}), ("duplicate_custom_id", 3, "custom_id")),
        (lines({"custom_id": "-"}), ("missing_required_parameter", 1, "custom_id")),
        (lines({"custom_id": 1}), ("invalid_type", 1, "custom_id")),
        (lines({"method": "GET"}), ("invalid_method", 1, "method")),
        (lines({"method": "-"}), ("missing_required_parameter", 1, "method")),
        (lines({"body": "-"}), ("missing_required_parameter", 1, "body")),
        (lines({"body": None}), ("invalid_type", 1, "body")),
        (lines({"body": []}), ("invalid_type", 1, "body")),
        (lines({"body": {"input": "x"}}), ("missing_required_parameter", 1, "body.model")),
        (lines({}, {"body": {"model": "other", "input": "x"}}), ("model_mismatch", 2, "body.model")),
        (lines({"body": {"model": "m", "input": ["x"] * 50_001}}), ("too_many_inputs", None, None)),
        (lines(*({} for _ in range(50_001))), ("too_many_tasks", None, None)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_failures(server: DevServer, api: Api, content: bytes, expected: tuple[Any, ...]) -> None:
    """The batch is created, then fails; nothing ran and there are no files."""
    batch = api.run(content, "/v1/embeddings")
    assert batch["status"] == "failed"
    assert batch["failed_at"]
    error = batch["errors"]["data"][0]
    assert (error["code"], error["line"], error["param"]) == expected
    assert error["message"]
    assert batch["output_file_id"] is batch["error_file_id"] is batch["in_progress_at"] is None
    assert server.stats()["request_lines_executed"] == 0


def test_several_errors(api: Api) -> None:
    """Every bad line is reported, in order."""
    batch = api.run(lines({"method": "GET"}, {}, {"url": "/x"}), "/v1/embeddings")
    assert [error["line"] for error in batch["errors"]["data"]] == [1, 3]


def test_embedding_inputs_are_counted(api: Api) -> None:
    """50,000 inputs are allowed; a list of tokens is one input."""
    body = {"model": "m", "input": ["x"] * 49_999}
    batch = api.run(lines({"body": body}, {"body": {"model": "m", "input": [1, 2, 3]}}), "/v1/embeddings")
    assert batch["status"] == "completed"


def test_last_line_without_an_end(api: Api) -> None:
    """The last line needs no newline, and blank lines do not count."""
    batch = api.run(b"\n" + lines({}, {}).strip().replace(b"\n", b"\n\n"), "/v1/embeddings")
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_enqueued_token_limit(server: DevServer, api: Api) -> None:
    """A batch fails if it and the others of its model that are not over exceed the limit; later it passes."""
    server.settings(batch_seconds=60, enqueued_token_limit=25)
    first = api.create([api.line("a")])
    api.wait(first["id"], lambda batch: batch["model"] is not None)
    server.settings(batch_seconds=0.1)
    second = api.run([api.line("b")])
    assert second["status"] == "failed"
    assert second["errors"]["data"][0]["code"] == "token_limit_exceeded"
    assert api.run([api.line("c", model="other")])["status"] == "completed"
    server.force(first["id"], status="completed")
    assert api.run([api.line("b")])["status"] == "completed"
