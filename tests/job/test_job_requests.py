"""Requests out of rows."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.requests import BodyTemplate, Request, requests_from

CHAT = "/v1/chat/completions"


def only(row: Any, endpoint: str = CHAT, **options: Any) -> Request:
    options.setdefault("model", "m")
    return next(requests_from([row], endpoint=endpoint, **options))


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/moderations", {"input": "hi"}),
        ("/v1/images/generations", {"prompt": "hi"}),
        ("/v1/videos", {"prompt": "hi"}),
    ],
)
def test_prompt(endpoint: str, body: dict[str, Any]) -> None:
    """A text becomes a body with the prompt where the endpoint expects it."""
    assert only("hi", endpoint).body == {**body, "model": "m"}


def test_body_as_it_is() -> None:
    """A body is sent as it is, with its braces; the model is filled in if there is none."""
    messages = [{"role": "user", "content": "{x} {{ y }}"}]
    assert only({"messages": messages, "model": "own", "seed": 1}).body == {
        "messages": messages,
        "model": "own",
        "seed": 1,
    }
    assert only({"messages": messages, "model": None}).body["model"] == "m"


def test_whole_line() -> None:
    """A request line brings its custom_id."""
    request = only({"custom_id": 7, "method": "POST", "url": CHAT, "body": {"messages": []}})
    assert request == Request(0, "7", {"messages": [], "model": "m"}, {})


@pytest.mark.parametrize(
    ("field", "message"),
    [("url", r"its url is '/v1/x', but that of the job is '/v1/chat"), ("method", "its method is '/v1/x'")],
)
def test_line_for_something_else(field: str, message: str) -> None:
    """A line for another endpoint is refused."""
    with pytest.raises(InvalidInputError, match=message):
        only({"custom_id": "a", "body": {"messages": []}, field: "/v1/x"})


def test_template_and_columns() -> None:
    """Template, id and kept columns of a row."""
    row = {"key": 5, "text": "hi", "other": None}
    request = only(
        row, body={"messages": [{"content": "{text}"}]}, id_column="key", keep_columns=["other", "key"]
    )
    assert request == Request(
        0, "5", {"messages": [{"content": "hi"}], "model": "m"}, {"other": None, "key": 5}
    )


def test_template_that_is_a_prompt() -> None:
    """A template may be a text, which becomes a prompt."""
    assert only({"a": "x"}, "/v1/responses", body="Say {a}").body["input"] == "Say x"
    assert only({"a": "x"}, "/v1/responses", body=BodyTemplate("Say {a}")).body["input"] == "Say x"


@pytest.mark.parametrize("made", ["Say x", {"input": "Say x"}, UserDict(input="Say x")])
def test_callable(made: Any) -> None:
    """A callable takes the row, of any kind, and gives a prompt or a body."""
    request = only(("x",), "/v1/responses", body=lambda row: made if row == ("x",) else None)
    assert request.body == {"input": "Say x", "model": "m"}


def test_callable_that_fails() -> None:
    """The callable's own error is raised, with a note that names the row."""
    with pytest.raises(ZeroDivisionError) as caught:
        only({}, body=lambda _row: 1 / 0)
    assert caught.value.__notes__ == ["while making the request body of Row 0"]


def test_rows_of_other_mappings() -> None:
    """A row may be any mapping, such as a database driver returns."""
    assert only(UserDict(a="x"), body="{a}", id_column="a").custom_id == "x"


def test_default_ids_count_the_rows() -> None:
    """Without an id column the row's number is the custom_id."""
    made = [(r.row_number, r.custom_id) for r in requests_from(["a", "b"], endpoint=CHAT, model="m")]
    assert made == [(0, "row-0"), (1, "row-1")]


def test_lazy() -> None:
    """No row is taken before its request is asked for."""
    rows = iter(["a", 3])
    requests = requests_from(rows, endpoint=CHAT, model="m")
    assert next(requests).custom_id == "row-0"
    with pytest.raises(InvalidInputError, match="Row 1: a request must be a prompt or a dict, not 3"):
        next(requests)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (("a",), {"body": "{a}"}, r"Row 0: a row must be a dict of its columns, not \('a',\) \(tuple\)"),
        ("a", {"body": "{a}"}, r"Row 0: a row must be a dict .* \(str\)"),
        ({"a": 1}, {"body": "{b}"}, "Row 0: it has no column 'b'; its columns are a"),
        (
            {"a": 1, "k": "x"},
            {"body": "{b}", "id_column": "k"},
            r"Row 0 \(custom_id 'x'\): it has no column 'b'",
        ),
        ({"a": 1}, {"body": "{a}", "id_column": "k"}, "Row 0: it has no column 'k'"),
        ({"a": "x"}, {"body": "{a}", "keep_columns": ["k"]}, "Row 0: it has no column 'k'"),
        ("text", {"id_column": "k"}, "Row 0: a row must be a dict of its columns, not 'text'"),
        ({"k": ""}, {"body": "x", "id_column": "k"}, "custom_id is '': it needs 1 to 512"),
        ({"k": None}, {"body": "x", "id_column": "k"}, "custom_id is ''"),
        ({"k": "x" * 513}, {"body": "x", "id_column": "k"}, "but has 513"),
        ({"a": 1}, {"body": lambda row: [row]}, r"a request must be a prompt or a dict, not \[.*\(list\)"),
        ({"text": "a"}, {}, r"a body for chat/completions needs 'messages', but this one has 'text'"),
        ({"messages": []}, {"model": None}, "its model is None: name one"),
        ({"messages": [], "model": 3}, {}, "its model is 3"),
        ({"input": "a", "model": 3}, {"endpoint": "/v1/moderations"}, "its model is 3"),
    ],
)
def test_faulty_row(row: Any, options: dict[str, Any], message: str) -> None:
    """The error names the row, by its own id where it has one, and what is wrong with it."""
    with pytest.raises(InvalidInputError, match=message):
        only(row, **options)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("one prompt", {}, "a list or an iterator, not a str"),
        ({"a": 1}, {}, "not a dict"),
        (7, {}, "not a int"),
        ([], {"keep_columns": ["status", "a", "custom_id"]}, "keep_columns has custom_id, status"),
        ([], {"endpoint": "chat"}, "endpoint 'chat' is not a path"),
        ([], {"body": "{"}, "single"),
    ],
)
def test_faulty_arguments(rows: Any, options: dict[str, Any], message: str) -> None:
    """Arguments that do not fit together are refused before the first row is taken."""
    with pytest.raises(InvalidInputError, match=message):
        requests_from(rows, **{"endpoint": CHAT, **options})


def test_text_for_an_endpoint_without_prompts() -> None:
    """Such an endpoint, and one that is not known, takes whole bodies."""
    with pytest.raises(InvalidInputError, match="Row 0: images/edits does not take a prompt"):
        only("a", "/v1/images/edits")
    assert only({"image": "a"}, "/v1/images/edits").body == {"image": "a", "model": "m"}
    assert only({"new": "a"}, "/v1/not/known/yet").body == {"new": "a", "model": "m"}


def test_model_is_optional_where_the_service_has_a_default() -> None:
    """Moderations need no model, and neither do prompts that are stored at the service."""
    assert only("a", "/v1/moderations", model=None).body == {"input": "a"}
    assert only({"prompt": {"id": "p"}}, "/v1/responses", model=None).body == {"prompt": {"id": "p"}}
