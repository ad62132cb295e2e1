"""Answers that are made from the request alone."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from airflow_provider_openai_batches.devserver.answers import answer
from airflow_provider_openai_batches.devserver.endpoints import CHAT, ENDPOINTS
from airflow_provider_openai_batches.devserver.input_lines import InputLine
from airflow_provider_openai_batches.devserver.replies import reply
from airflow_provider_openai_batches.devserver.schema import instance

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver.answers import SyntheticAnswer
    from airflow_provider_openai_batches.devserver.endpoints import Endpoint

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 3, "maxLength": 20},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["name", "children", "parent"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS = [
    {"type": "string", "enum": ["a", "b", "c"]},
    {"const": 7},
    {"type": "integer", "minimum": 3, "maximum": 5},
    {"type": "integer", "multipleOf": 5, "minimum": 12},
    {"type": "number", "minimum": -1, "maximum": 1},
    {"type": "boolean"},
    {"type": ["string", "null"]},
    {"type": "null"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 4},
    {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]},
    {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "integer"}}}]},
    {"type": "object", "properties": {"label": {"enum": ["x", "y"]}}, "required": ["label"]},
    TREE,
]


def ask(endpoint: str, quirk: str = "", **body: Any) -> SyntheticAnswer:
    raw = msgspec.Raw(json.dumps({"model": "m", **body}).encode())
    return answer(InputLine("a", "POST", endpoint, raw), endpoint, 1_700_000_000, quirk)


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("text", ["", "one prompt", "another prompt \ud800"])
def test_schemas(schema: Any, text: str) -> None:
    """The value satisfies its schema, and depends on nothing but the prompt."""
    value = instance(schema, text)
    Draft202012Validator(schema).validate(value)
    assert instance(schema, text) == value


def test_structured_output() -> None:
    """Chat and responses answer with an instance of the schema that they are given."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    chat = ask(
        CHAT,
        messages=[{"role": "user", "content": "x"}],
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    )
    assert isinstance(json.loads(chat.body["choices"][0]["message"]["content"])["n"], int)
    responses = ask(
        "/v1/responses", input="x", text={"format": {"type": "json_schema", "name": "s", "schema": schema}}
    )
    assert isinstance(json.loads(responses.body["output"][0]["content"][0]["text"])["n"], int)


@pytest.mark.parametrize(
    "words", ["Answer with one of: red, green, blue.", "answer with one of: red, green, blue"]
)
def test_choices(words: str) -> None:
    """A prompt with options gets one of them; different texts get different ones."""
    answers = [reply(f"Text {number}.\n{words}") for number in range(30)]
    assert set(answers) == {"red", "green", "blue"}
    assert answers == [reply(f"Text {number}.\n{words}") for number in range(30)]


def test_prompts_of_every_shape() -> None:
    """Texts are found in strings, messages and parts; the answer quotes them and says who made it."""
    for body in (
        {"messages": [{"role": "user", "content": "needle"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "needle"}, {"type": "image_url"}]}
            ]
        },
    ):
        made = ask(CHAT, **body)
        content = made.body["choices"][0]["message"]["content"]
        assert content.startswith("Dev server")
        assert "needle" in content
        assert made.body["system_fingerprint"] == "devserver"
    for value in ("needle", [{"role": "user", "content": [{"type": "input_text", "text": "needle"}]}]):
        made = ask("/v1/responses", input=value, instructions="hay")
        assert "needle" in made.body["output"][0]["content"][0]["text"]
    assert "needle" in ask("/v1/completions", prompt="needle").body["choices"][0]["text"]


@pytest.mark.parametrize(("value", "count"), [("x", 1), (["x", "y"], 2), ([1, 2, 3], 1), ([[1], [2]], 2)])
def test_embeddings(value: Any, count: int) -> None:
    """Each input gets a vector of length one that depends on it alone."""
    data = ask("/v1/embeddings", input=value).body["data"]
    assert [item["index"] for item in data] == list(range(count))
    assert all(len(item["embedding"]) == 8 for item in data)
    assert all(abs(sum(part**2 for part in item["embedding"]) - 1) < 1e-9 for item in data)
    assert len({tuple(item["embedding"]) for item in data}) == count


def test_embedding_options() -> None:
    """The vectors have the dimensions and the encoding that were asked for."""
    plain = ask("/v1/embeddings", input="x", dimensions=3).body["data"][0]["embedding"]
    packed = ask("/v1/embeddings", input="x", dimensions=3, encoding_format="base64").body["data"][0][
        "embedding"
    ]
    assert struct.unpack("<3f", base64.b64decode(packed)) == pytest.approx(plain)


def test_the_other_endpoints() -> None:
    """Moderations, images and videos have their own shapes of answers."""
    assert len(ask("/v1/moderations", input=["a", "b"]).body["results"]) == 2
    images = ask("/v1/images/generations", prompt="x", n=2).body["data"]
    assert len(images) == 2
    assert base64.b64decode(images[0]["b64_json"]).startswith(b"\x89PNG")
    assert ask("/v1/images/edits", prompt="x").status == 200
    assert ask("/v1/videos", prompt="x").body["object"] == "video"


def test_quirks() -> None:
    """A request can ask for a failure, a refusal, or JSON that breaks off."""
    messages = [{"role": "user", "content": "x"}]
    assert ask(CHAT, "fail:418", messages=messages).status == 418
    assert ask(CHAT, "fail", messages=messages).status == 400
    message = ask(CHAT, "refuse", messages=messages).body["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"]
    part = ask("/v1/responses", "refuse", input="x").body["output"][0]["content"][0]
    assert part["type"] == "refusal"
    content = ask(CHAT, "invalid_json", messages=messages).body["choices"][0]["message"]["content"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(content)


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.path)
def test_the_content_is_required(endpoint: Endpoint) -> None:
    """A body without the field that holds the prompt is answered 400."""
    assert ask(endpoint.path, **{endpoint.content: "x"}).status == 200
    missing = ask(endpoint.path)
    assert (missing.status, missing.body["error"]["param"]) == (400, endpoint.content)
