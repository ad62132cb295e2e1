"""Result lines and the answers in them."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobkit import USAGE, answered, chat, failed

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.usage import Usage, usage_of
from airflow_provider_openai_batches.inference.data.lines import body_of, classify, read_line
from airflow_provider_openai_batches.inference.data.outcomes import RowError
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
from airflow_provider_openai_batches.inference.data.results import Answer, AnswerReader

if TYPE_CHECKING:
    import random

CHAT, RESPONSES = "chat/completions", "responses"
SCHEMA = OutputSchema({"type": "object", "required": ["label"]}, strict=False)
TOKENS = Usage(3, 0, 2, 0, 5)


def outcome(line: bytes, kind: str = CHAT) -> tuple[str, bool, str | None]:
    read = read_line(line)
    assert read is not None
    found = classify(read, spec_of(f"/v1/{kind}"))
    return found.status, found.retryable, found.error.code if found.error else None


def answer(body: Any, kind: str = CHAT, output: str = "text", schema: OutputSchema | None = None) -> Answer:
    """Read the same line in both ways; they must agree."""
    reader = AnswerReader(spec_of(f"/v1/{kind}"), output, schema)
    line = answered("a", body)
    known, unknown = (reader.read_line(line, answered=flag) for flag in (True, False))
    assert msgspec.json.encode(known) == msgspec.json.encode(unknown)
    return msgspec.structs.replace(known, output=msgspec.json.decode(msgspec.json.encode(known.output)))


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 599])
def test_passing_failures(status: int) -> None:
    """A failure that may pass is asked again."""
    assert outcome(answered("a", {"error": {"code": "c", "message": "m"}}, status)) == ("failed", True, "c")


@given(
    status=st.integers(max_value=199) | st.integers(min_value=600), body=st.sampled_from([{}, None, "", 7])
)
def test_number_that_is_no_status(status: int, body: Any) -> None:
    """OpenAI itself has sent 0 with an empty body, in batches whose counts say that all were completed."""
    for kind in (CHAT, RESPONSES, "embeddings", "videos"):
        found, retryable, code = outcome(answered("a", body, status), kind)
        assert (found, retryable, code) == ("failed", True, f"http_{status}")


def test_answer_beside_a_number_that_is_no_status() -> None:
    """What is there was paid for, and is used."""
    assert outcome(answered("a", chat("hi"), 0)) == ("succeeded", False, None)
    assert outcome(answered("a", {"output": [message(text("hi"))]}, 0), RESPONSES)[0] == "succeeded"
    assert outcome(answered("a", {"output": []}, 0), RESPONSES)[:2] == ("failed", True)
    assert outcome(answered("a", {"error": {"type": "invalid_request_error"}}, 0))[1] is False


def error_line(error: Any, **more: Any) -> bytes:
    return json.dumps({"custom_id": "a", "error": error, **more}).encode()


@pytest.mark.parametrize(
    ("error", "retryable", "code"),
    [
        (
            {"type": "request_failed", "message": "Error code: 400 - {'object': 'error'}"},
            False,
            "request_failed",
        ),
        ({"code": "inference_failed", "message": "[http_error] no status=404"}, False, "inference_failed"),
        ({"code": 422, "type": "BadRequestError", "message": "m"}, False, "BadRequestError"),
        ({"code": "400", "message": "m"}, False, "400"),
        ({"type": "invalid_request_error", "message": "m"}, False, "invalid_request_error"),
        ({"type": "openai.NotFoundError"}, False, "openai.NotFoundError"),
        ({"code": "context_length_exceeded"}, False, "context_length_exceeded"),
        ({"message": "Client error '422 Unprocessable Entity' for url"}, False, "error"),
        ("HTTP 401: Unauthorized", False, "error"),
        ({"type": "request_failed", "message": "Error code: 429 - slow down"}, True, "request_failed"),
        ({"type": "request_failed", "message": "Error code: 503"}, True, "request_failed"),
        ({"type": "RateLimitError"}, True, "RateLimitError"),
        ({"type": "InternalServerError"}, True, "InternalServerError"),
        ({"type": "invalid_request_error", "code": "rate_limit_exceeded"}, True, "rate_limit_exceeded"),
        ({"type": "insufficient_quota", "code": 429}, False, "insufficient_quota"),
        ({"message": "a list of 400 items, code 4001"}, True, "error"),
        ({"type": "request_failed"}, True, "request_failed"),
        ({"code": "batch_expired", "type": "invalid_request_error"}, True, "batch_expired"),
    ],
)
def test_error_without_a_response(error: Any, retryable: bool, code: str) -> None:
    """Its code, type or words say a 4xx that lasts, or it is asked again; the type is kept."""
    more: dict[str, Any]
    for more in ({}, {"response": None}, {"response": {"status_code": None, "body": None}}):
        assert outcome(error_line(error, **more))[1:] == (retryable, code)


@pytest.mark.parametrize("form", ["Error code: {0}", "status={0}", "HTTP {0}", "HTTP/1.1 {0}", "{0} {1}"])
@pytest.mark.parametrize("status", [s for s in HTTPStatus if s >= 400])
def test_status_in_words(form: str, status: HTTPStatus) -> None:
    """It says the same as a status in its own field."""
    said = outcome(error_line({"message": f"Failed: {form.format(int(status), status.phrase)}."}))
    assert said[1] is outcome(answered("a", {}, status))[1]


@pytest.mark.parametrize(
    "words",
    [
        *("413 Request Entity Too Large", "413 Payload Too Large", "413 Content Too Large"),
        *("414 Request-URI Too Long", "414 URI Too Long"),
        *("416 Requested Range Not Satisfiable", "416 Range Not Satisfiable"),
        *("422 Unprocessable Entity", "422 Unprocessable Content"),
    ],
)
def test_status_in_words_of_any_time(words: str) -> None:
    """Python has the older names until 3.12, the newer ones from 3.13; a service's server may have either."""
    assert outcome(error_line({"message": f"Failed: {words}."}))[1] is False
    assert outcome(error_line({"type": words[4:].title().replace(" ", "") + "Error"}))[1] is False


@pytest.mark.parametrize("status", [300, 400, 401, 403, 404, 413, 422])
def test_lasting_failures(status: int) -> None:
    """What the service will refuse every time is not asked again."""
    assert outcome(answered("a", {"error": {"code": "c", "message": "m"}}, status)) == ("failed", False, "c")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (failed("a", "batch_expired"), ("expired", True, "batch_expired")),
        (failed("a", "batch_cancelled"), ("cancelled", True, "batch_cancelled")),
        (failed("a", "server_error"), ("failed", True, "server_error")),
        (failed("a", "invalid_request"), ("failed", False, "invalid_request")),
        (failed("a", "insufficient_quota"), ("failed", False, "insufficient_quota")),
        (
            answered("a", {"error": {"code": "insufficient_quota"}}, 429),
            ("failed", False, "insufficient_quota"),
        ),
        (answered("a", {"error": {"code": None, "type": "t"}}, 400), ("failed", False, "t")),
        (answered("a", {"detail": "no"}, 422), ("failed", False, "http_422")),
        (answered("a", {"error": "no"}, 400), ("failed", False, "http_400")),
        (answered("a", None, 500), ("failed", True, "http_500")),
        (answered("a", '{"error": {"code": "c"}}', 400), ("failed", False, "c")),
        (b'{"custom_id": "a"}', ("missing", True, "missing")),
        (b'{"custom_id": "a", "response": null, "error": null}', ("missing", True, "missing")),
        (b'{"custom_id": "a", "error": "gone"}', ("failed", True, "error")),
        (b'{"custom_id": "a", "response": {"status_code": "200", "body": {}}}', ("succeeded", False, None)),
        (b'{"custom_id": "a", "response": {"body": {}}}', ("succeeded", False, None)),
        (b'{"custom_id": "a", "response": {"body": {"error": {"code": "c"}}}}', ("failed", False, "c")),
        (b'{"custom_id": "a", "response": {"body": 1}, "error": {"code": "c"}}', ("failed", True, "c")),
        (b'{"custom_id": "a", "response": "Bad Gateway"}', ("failed", True, "error")),
    ],
)
def test_outcomes(line: bytes, expected: tuple[str, bool, str | None]) -> None:
    """Requests that never ran, errors in every form that servers write, and successes with fields missing."""
    assert outcome(line) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"status": "completed", "error": None}, ("succeeded", False, None)),
        ({"status": "incomplete"}, ("succeeded", False, None)),
        (
            {"status": "failed", "error": {"code": "server_error", "message": "m"}},
            ("failed", True, "server_error"),
        ),
        (
            {"status": "failed", "error": {"code": "image_parse_error"}},
            ("failed", False, "image_parse_error"),
        ),
    ],
)
def test_responses_that_failed_inside(body: Any, expected: tuple[str, bool, str | None]) -> None:
    """The body of a response can report a failure although the HTTP status is 200."""
    assert outcome(answered("a", body), RESPONSES) == expected


def test_message_of_an_error() -> None:
    """The service's own words, wherever they stand, up to a limit."""
    for line, message in [
        (answered("a", {"error": {"code": "c", "message": "m"}}, 400), "m"),
        (answered("a", {"detail": "why"}, 422), "why"),
        (answered("a", "plain text", 400), "plain text"),
        (failed("a", "batch_expired"), "It was batch_expired."),
        (b'{"custom_id": "a", "response": {"status_code": 400, "body": {}}, "error": {"message": "m"}}', "m"),
        (answered("a", {"error": {"message": "x" * 5_000}}, 400), "x" * 1_000),
    ]:
        read = read_line(line)
        assert read is not None
        error = classify(read, spec_of(f"/v1/{CHAT}")).error
        assert error is not None
        assert error.message == message


@pytest.mark.parametrize(
    "line", [b"", b"oops", b"[1]", b'"a"', b"{}", b'{"custom_id": null}', b'{"custom_id": "a"', b"\xff"]
)
def test_line_that_is_not_a_result(line: bytes) -> None:
    """A line that names no request is not a result line."""
    assert read_line(line) is None


def test_custom_id_that_is_a_number() -> None:
    """Some servers write it as a number."""
    line = read_line(b'{"custom_id": 7, "response": {"status_code": 200, "body": {"a": 1.25}}}')
    assert line is not None
    assert line.custom_id == "7"
    assert line.response is not None
    assert bytes(line.response.body) == b'{"a":1.25}'


def test_body_as_text() -> None:
    """A body that is a string of JSON is read; its line breaks are removed."""
    line = read_line(answered("a", json.dumps(chat("hi"), indent=1)))
    assert line is not None
    assert line.response is not None
    assert b"\n" not in bytes(body_of(line.response))
    assert answer(json.dumps(chat("hi"), indent=1)).output == "hi"


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(parts)}


def text(value: str) -> dict[str, Any]:
    return {"type": "output_text", "text": value, "annotations": []}


@pytest.mark.parametrize(
    ("kind", "body", "output"),
    [
        (CHAT, chat("hi"), "hi"),
        (CHAT, chat(""), ""),
        (CHAT, {"choices": chat("a")["choices"] + chat("b")["choices"]}, ["a", "b"]),
        (CHAT, chat([{"type": "text", "text": "a"}, {"type": "x"}, {"type": "text", "text": "b"}]), "ab"),
        ("completions", {"choices": [{"text": "hi"}]}, "hi"),
        ("completions", {"choices": [{"text": "a"}, {"text": "b"}]}, ["a", "b"]),
        (
            RESPONSES,
            {
                "output": [
                    {
                        "type": "reasoning",
                        "summary": [],
                        "content": [{"type": "reasoning_text", "text": "hm"}],
                    },
                    message(text("a"), text("b")),
                    {"type": "web_search_call", "status": "completed"},
                    {"type": "other", "content": [text("not an answer")]},
                    message(text("c")),
                ]
            },
            "c",
        ),
        ("embeddings", {"data": [{"embedding": [0.1, -2e-7], "index": 0}]}, [0.1, -2e-7]),
        ("embeddings", {"data": [{"embedding": "AACAPw=="}]}, "AACAPw=="),
        (
            "embeddings",
            {"data": [{"embedding": [2], "index": 1}, {"embedding": [1], "index": 0}]},
            [[1], [2]],
        ),
        ("moderations", {"results": [{"flagged": True}]}, [{"flagged": True}]),
        ("images/generations", {"data": [{"url": "u"}]}, [{"url": "u"}]),
        ("videos", {"id": "v"}, {"id": "v"}),
    ],
)
def test_text_of_an_answer(kind: str, body: Any, output: Any) -> None:
    """The part of the body that the user wants; several choices or inputs make a list in their order."""
    read = answer(body, kind)
    assert (read.outcome.status, read.output) == ("succeeded", output)
    assert answer(body, kind, "body").output == body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CHAT, chat(None, refusal="I can't.")),
        (CHAT, {"choices": chat("a")["choices"] + chat(None, refusal="I can't.")["choices"]}),
        (RESPONSES, {"output": [message({"type": "refusal", "refusal": "I can't."})]}),
    ],
)
@pytest.mark.parametrize("schema", [None, SCHEMA])
def test_refusal(kind: str, body: Any, schema: OutputSchema | None) -> None:
    """A refusal of the model is a failure that says why, with a schema and without."""
    read = answer(body, kind, schema=schema)
    assert read.outcome.status == "failed"
    assert read.outcome.error is not None
    assert (read.outcome.error.code, read.outcome.error.message) == ("refusal", "I can't.")
    assert (read.output, read.outcome.retryable) == (None, False)
    assert answer(body, kind, "body").output == body


def test_line_that_is_no_success() -> None:
    """A line that is not known to have succeeded is classified first."""
    body = {"status": "failed", "error": {"code": "c", "message": "m"}, "output": []}
    read = AnswerReader(spec_of(f"/v1/{RESPONSES}")).read_line(answered("a", body), answered=False)
    assert (read.outcome.status, read.outcome.error) == ("failed", RowError("c", "m"))
    with pytest.raises(ValueError, match="not a result line"):
        AnswerReader(spec_of(f"/v1/{RESPONSES}")).read_line(b"oops", answered=False)


def test_answer_without_text() -> None:
    """An answer that only calls tools has no text, but a body."""
    body = chat(None, tool_calls=[{"id": "t"}])
    error = answer(body).outcome.error
    assert error is not None
    assert (error.code, error.message) == ("no_text", "The answer has no text (stop); output='body' keeps it")
    assert answer(body, output="body").outcome.status == "succeeded"
    assert answer(body).usage == TOKENS


def test_structured() -> None:
    """The output is the value that the text holds, or the text and what is wrong with it."""
    assert answer(chat('{"label": "a"}'), schema=SCHEMA).output == {"label": "a"}
    read = answer(chat('{"labels": "a"}'), schema=SCHEMA)
    assert (read.outcome.status, read.output) == ("invalid_output", '{"labels": "a"}')
    assert read.outcome.error is not None
    assert read.outcome.error.message == "$: 'label' is a required property"
    assert read.usage == TOKENS
    assert answer(chat("{}"), schema=SCHEMA, output="body").output == chat("{}")
    several = {"choices": chat('{"label": 1}')["choices"] * 2}
    assert answer(several, schema=SCHEMA).output == [{"label": 1}] * 2
    error = answer(chat(None), schema=SCHEMA).outcome.error
    assert error is not None
    assert error.message == "the answer has no text"


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (CHAT, {"choices": [{"message": {"content": '{"lab'}, "finish_reason": "length"}]}, "length"),
        (
            RESPONSES,
            {"output": [message(text('{"lab'))], "incomplete_details": {"reason": "max_output_tokens"}},
            "max_output_tokens",
        ),
    ],
)
def test_structured_but_cut_off(kind: str, body: Any, reason: str) -> None:
    """The error says so, because the user then needs more tokens, not another model."""
    error = answer(body, kind, schema=SCHEMA).outcome.error
    assert error is not None
    assert error.message.startswith(f"the answer was cut off ({reason}): ")


@pytest.mark.parametrize(
    "kind", [CHAT, RESPONSES, "embeddings", "moderations", "images/generations", "completions"]
)
@pytest.mark.parametrize("body", [None, 1, "text", [], {"choices": 7, "output": 7, "data": 7}])
def test_body_of_no_known_form(kind: str, body: Any) -> None:
    """It is a failure, or a success without text; the row keeps what came."""
    read = answer(body, kind)
    if read.outcome.status == "failed":
        assert read.outcome.error is not None
        assert read.outcome.error.code == "unexpected_answer"
        assert read.output == body
    else:
        assert read.output == 7
    assert answer(body, kind, "body").outcome.status == ("succeeded" if body else "failed")


def test_what_compatible_servers_write_differently() -> None:
    """The text is found despite null for an empty object, numbers as text, or an unknown form of usage."""
    body = chat("hi") | {"usage": {"prompt_tokens": "many"}}
    body["choices"][0] |= {"finish_reason": 7}
    assert answer(body).output is not None
    assert answer(chat("hi") | {"usage": {"prompt_tokens": "many"}}).output == "hi"
    assert answer(chat("hi") | {"usage": None}).output == "hi"
    assert (
        answer({"output": [message(text("a"))], "incomplete_details": None, "x": None}, RESPONSES).output
        == "a"
    )


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": USAGE}, TOKENS),
        ({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, Usage(3, 0, 0, 0, 3)),
        (
            {
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 8,
                    "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 0},
                }
            },
            Usage(9, 4, 8, 5, 17),
        ),
        (
            {
                "usage": {
                    "input_tokens": 9,
                    "input_tokens_details": {"cached_tokens": 4},
                    "output_tokens": 8,
                    "output_tokens_details": {"reasoning_tokens": 5},
                    "total_tokens": 17,
                }
            },
            Usage(9, 4, 8, 5, 17),
        ),
        ({"usage": {"prompt_tokens": 1, "prompt_tokens_details": None}}, Usage(1, 0, 0, 0, 1)),
        ({"usage": None}, None),
        ({}, None),
        (7, None),
        ({"usage": {"prompt_tokens": "x"}}, None),
    ],
)
def test_usage(body: Any, usage: Usage | None) -> None:
    """Usage has one form for all endpoints."""
    assert usage_of(msgspec.Raw(json.dumps(body).encode())) == usage


def item(*texts: str, **more: Any) -> dict[str, Any]:
    return message(*map(text, texts)) | more


@pytest.mark.parametrize(
    ("items", "expected", "value"),
    [
        ([item('{"lab'), item('{"label": 1}')], '{"label": 1}', {"label": 1}),
        ([item('{"label": 1}'), item('{"lab')], '{"lab', {"label": 1}),
        ([item('{"label": 1}'), item('{"label": 2}')], '{"label": 2}', {"label": 2}),
        ([item('{"label": 1}'), item('{"label": 2}'), item("Done.")], "Done.", {"label": 2}),
        ([item("I look", phase="commentary"), item('{"label": 1}')], '{"label": 1}', {"label": 1}),
        (
            [item('{"label": 1}', phase="final_answer"), item("So.", phase="commentary")],
            '{"label": 1}',
            {"label": 1},
        ),
        ([item('{"label": ', "1}"), item("")], '{"label": 1}', {"label": 1}),
        ([item('{"label": 1}'), message()], '{"label": 1}', {"label": 1}),
        ([item("I look", phase="commentary")], "I look", None),
        ([item("a"), item("b")], "b", None),
    ],
)
def test_several_messages(items: list[Any], expected: str, value: Any) -> None:
    """As text the final one, with a schema the last that fits it; the body has them all."""
    body = {"output": [{"type": "reasoning", "summary": []}, *items]}
    assert answer(body, RESPONSES).output == expected
    read = answer(body, RESPONSES, schema=SCHEMA)
    status, output = ("succeeded", value) if value else ("invalid_output", expected)
    assert (read.outcome.status, read.output) == (status, output)
    assert answer(body, RESPONSES, "body").output == body


@given(texts=st.lists(st.sampled_from(["", "x", '{"label": 1}', '{"label": 2}', '{"lab']), max_size=6))
def test_which_message_is_taken(texts: list[str]) -> None:
    """Whatever the order: the last that says something, and with a schema the last that fits."""
    body = {"output": [item(value) for value in texts]}
    said = [value for value in texts if value]
    fits = [value for value in said if value.endswith("}")]
    expected = said[-1] if said else "" if texts else None
    assert answer(body, RESPONSES).output == expected
    read = answer(body, RESPONSES, schema=SCHEMA)
    assert read.output == (json.loads(fits[-1]) if fits else expected)


@pytest.mark.parametrize(("kinds", "refused"), [("rt", False), ("tr", True), ("r", True)])
def test_refusal_among_messages(kinds: str, refused: bool) -> None:
    """The final message decides."""
    refusal = message({"type": "refusal", "refusal": "I can't."})
    body = {"output": [item('{"label": 1}') if kind == "t" else refusal for kind in kinds]}
    for schema in (None, SCHEMA):
        error = answer(body, RESPONSES, schema=schema).outcome.error
        assert (error is not None and error.code == "refusal") is refused


def ended(kind: str, content: str | None, reason: str | None, **more: Any) -> dict[str, Any]:
    """A body whose answer ends for this reason."""
    if kind == RESPONSES:
        body: dict[str, Any] = {"output": [] if content is None else [item(content)], "status": "completed"}
        if reason is not None:
            body |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
    elif kind == "completions":
        body = {"choices": [{"text": content, "finish_reason": reason}]}
    else:
        body = {"choices": [{"message": {"content": content, **more}, "finish_reason": reason}]}
    return body | {"usage": USAGE}


CUT = [
    (CHAT, "length", "raise max_completion_tokens"),
    (CHAT, "content_filter", "content filter"),
    (CHAT, "max_tokens", "raise max_completion_tokens"),
    ("completions", "length", "raise max_tokens"),
    (RESPONSES, "max_output_tokens", "raise max_output_tokens"),
    (RESPONSES, "content_filter", "content filter"),
]


@pytest.mark.parametrize(("kind", "reason", "way_out"), CUT)
@pytest.mark.parametrize("content", ["", " \n", None])
@pytest.mark.parametrize("output", ["text", "body"])
def test_empty_because_cut_off(
    kind: str, reason: str, way_out: str, content: str | None, output: str
) -> None:
    """It is a failure that says what to do; its tokens were paid for, and a whole body is kept."""
    body = ended(kind, content, reason)
    for schema in (None, SCHEMA) if kind != "completions" else (None,):
        read = answer(body, kind, output, schema)
        assert (read.outcome.status, read.outcome.retryable, read.finish_reason) == ("failed", False, reason)
        assert read.outcome.error is not None
        assert read.outcome.error.code == "truncated"
        assert way_out in read.outcome.error.message
        assert (read.usage, read.output) == (TOKENS, body if output == "body" else None)


@pytest.mark.parametrize(("kind", "reason", "way_out"), CUT)
def test_text_that_is_cut_off(kind: str, reason: str, way_out: str) -> None:
    """It has a mark; with a schema that it does not match its error says why, and what to do."""
    body = ended(kind, "half", reason)
    read = answer(body, kind)
    assert (read.outcome.status, read.output, read.finish_reason) == ("succeeded", "half", reason)
    assert answer(body, kind, "body").finish_reason == reason
    if kind != "completions":
        error = answer(body, kind, schema=SCHEMA).outcome.error
        assert error is not None
        assert error.message.startswith(f"the answer was cut off ({reason}): ")
        assert way_out in error.message
        good = answer(ended(kind, '{"label": 1}', reason), kind, schema=SCHEMA)
        assert (good.outcome.status, good.finish_reason) == ("succeeded", reason)


def test_incomplete_without_a_reason() -> None:
    """The status alone says that something is missing."""
    for content, status in (("", "failed"), ("half", "succeeded")):
        read = answer({"output": [item(content)], "status": "incomplete"}, RESPONSES)
        assert (read.outcome.status, read.finish_reason) == (status, "incomplete")


@pytest.mark.parametrize(
    "body",
    [
        ended(CHAT, "", "stop"),
        ended(CHAT, "whole", "stop"),
        ended(CHAT, "whole", None),
        ended(CHAT, "calls follow", "tool_calls"),
    ],
)
def test_answer_that_is_not_cut_off(body: Any) -> None:
    """Short, even empty, is not cut off."""
    read = answer(body)
    assert (read.outcome.status, read.finish_reason) == ("succeeded", None)


def test_calls_beside_an_empty_text() -> None:
    """What was cut off is not the text; the whole body keeps the calls."""
    body = ended(CHAT, None, "length", tool_calls=[{"id": "t"}])
    read = answer(body, output="body")
    assert (read.outcome.status, read.output, read.finish_reason) == ("succeeded", body, "length")


def test_one_choice_of_several_is_cut_off() -> None:
    """It marks the row."""
    first, second = ended(CHAT, "whole", "stop"), ended(CHAT, "", "length")
    read = answer({"choices": first["choices"] + second["choices"]})
    assert (read.outcome.status, read.output, read.finish_reason) == ("succeeded", ["whole", ""], "length")


def vector(*values: Any) -> dict[str, Any]:
    return {"data": [{"embedding": value, "index": n} for n, value in enumerate(values)], "usage": USAGE}


def packed(size: int) -> str:
    return base64.b64encode(b"\0" * size).decode()


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("embeddings", vector([0.1, None]), "no_value"),
        ("embeddings", vector([]), "no_value"),
        ("embeddings", vector(None), "no_value"),
        ("embeddings", vector(""), "no_value"),
        ("embeddings", vector({}), "no_value"),
        ("embeddings", vector(7), "no_value"),
        ("embeddings", vector([0.1, True]), "no_value"),
        ("embeddings", vector([0.1, [0.2]]), "no_value"),
        ("embeddings", vector([0.1, "x"]), "no_value"),
        ("embeddings", vector(packed(7)), "no_value"),
        ("embeddings", vector(packed(8)[:-3]), "no_value"),
        ("embeddings", vector([0.1], [None]), "no_value"),
        ("embeddings", {"data": [{"embedding": [1], "index": 1}]}, "no_value"),
        ("embeddings", {"data": [{"embedding": [1], "index": n} for n in (0, 2)]}, "no_value"),
        ("embeddings", {"data": [{"embedding": [1], "index": n} for n in (0, 1, 1)]}, "no_value"),
        ("embeddings", {"data": [{"embedding": [1], "index": n} for n in (-1, 0)]}, "no_value"),
        ("images/generations", {"data": [{}]}, "no_value"),
        ("images/generations", {"data": [{"url": None, "revised_prompt": "p"}]}, "no_value"),
        ("images/generations", {"data": [{"url": ""}]}, "no_value"),
        ("images/edits", {"data": [{"url": "u"}, {"b64_json": None}]}, "no_value"),
        ("images/edits", {"data": {"url": "u"}}, "unexpected_answer"),
        ("moderations", {"results": None}, "no_value"),
        ("moderations", {"results": []}, "no_value"),
        ("images/generations", {"data": []}, "no_value"),
        ("videos", None, "no_value"),
        ("videos", {}, "no_value"),
        (CHAT, chat([{"type": "text", "text": None}]), "no_text"),
        (CHAT, chat([{"type": "text", "text": 7}]), "no_text"),
        (CHAT, chat([]), "no_text"),
        (CHAT, {"choices": chat(None)["choices"] * 2}, "no_text"),
        ("completions", {"choices": [{"text": None}] * 2}, "no_text"),
        (RESPONSES, {"output": [message({"type": "output_text", "text": None})]}, "no_text"),
    ],
)
def test_success_without_a_value(kind: str, body: Any, code: str) -> None:
    """It is a failure that says why; what it has cost is counted."""
    read = answer(body, kind)
    assert read.outcome.error is not None
    assert (read.outcome.status, read.outcome.retryable, read.outcome.error.code) == ("failed", False, code)
    assert read.usage == (TOKENS if body and "usage" in body else None)


@pytest.mark.parametrize("output", ["text", "body"])
def test_value_that_is_enough(output: str) -> None:
    """One text of several, and every number that a vector can hold."""
    several = {"choices": chat("a")["choices"] + chat(None)["choices"]}
    assert answer(several, output=output).outcome.status == "succeeded"
    for value in ([0], [1e-7, -2.5e3, 1e30], [1e20], packed(8)):
        assert answer(vector(value), "embeddings", output).outcome.status == "succeeded"


@given(count=st.integers(1, 9), lost=st.integers(0, 8), seed=st.randoms())
def test_each_input_has_its_embedding(count: int, lost: int, seed: random.Random) -> None:
    """In the order of the inputs, however the service orders them; a gap between them is a failure."""
    data = vector(*([number] for number in range(1, count + 1)))["data"]
    kept = [item for item in data if item["index"] != lost or lost >= count - 1]
    seed.shuffle(kept)
    read = answer({"data": kept}, "embeddings")
    if len(kept) < count:
        assert (read.outcome.status, read.outcome.error and read.outcome.error.code) == ("failed", "no_value")
    else:
        assert read.output == ([[n] for n in range(1, count + 1)] if count > 1 else [1])


@pytest.mark.parametrize("places", [{}, {"index": 0}, {"index": None}])
def test_embeddings_without_places(places: dict[str, Any]) -> None:
    """Some servers do not say which input a vector is for: they come in the order of the inputs."""
    read = answer({"data": [{"embedding": [n], **places} for n in (3, 1, 2)]}, "embeddings")
    assert (read.outcome.status, read.output) == ("succeeded", [[3], [1], [2]])


def test_images_are_kept_as_they_are() -> None:
    """Each with an address or with data."""
    data = [{"url": "u"}, {"b64_json": "aGk=", "url": None}]
    read = answer({"data": data}, "images/generations")
    assert (read.outcome.status, read.output) == ("succeeded", data)


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-9, 9)))
def test_vector_of_numbers(values: list[float]) -> None:
    """Any numbers are a value, and none are not; in one vector and in several."""
    for body in (vector(values), vector([1], values)):
        read = answer(body, "embeddings")
        assert read.outcome.status == ("succeeded" if values else "failed")


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    )
)
def test_vector_of_anything(value: Any) -> None:
    """What succeeds is what Parquet can hold."""
    read = answer(vector(value), "embeddings")
    is_numbers = isinstance(value, list) and value and all(type(number) is float for number in value)
    if read.outcome.status == "succeeded" and not is_numbers:
        assert isinstance(value, str)
        assert len(base64.b64decode(value)) % 4 == 0
    if is_numbers:
        assert read.outcome.status == "succeeded"


@pytest.mark.parametrize("number", [b"1e400", b"1E400", b"1e+400"])
def test_number_that_is_too_large(number: bytes) -> None:
    """Parquet would have a null there."""
    line = answered("a", vector([0.5])).replace(b"0.5", number)
    for flag in (True, False):
        read = AnswerReader(spec_of("/v1/embeddings")).read_line(line, answered=flag)
        assert (read.outcome.status, read.outcome.error and read.outcome.error.code) == ("failed", "no_value")


def test_content_that_a_server_has_read() -> None:
    """JSON that is no longer in a text is put into one again."""
    assert answer(chat({"label": 1}), schema=SCHEMA).output == {"label": 1}
    assert answer(chat(7)).output == "7"
