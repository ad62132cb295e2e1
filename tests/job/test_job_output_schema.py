"""Structured output."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobkit import answered, chat, noted, prepare, read_parts
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_validator,
    model_validator,
)

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
from airflow_provider_openai_batches.inference.data.requests import requests_from

if TYPE_CHECKING:
    from pathlib import Path

LABEL = {
    "title": "a label!",
    "type": "object",
    "properties": {"label": {"$ref": "#/$defs/kind"}},
    "required": ["label"],
    "$defs": {"kind": {"enum": ["good", "bad"]}},
}


class Colour(enum.Enum):
    RED = "red"


class Part(BaseModel):
    name: str
    parts: list[Part] = []
    colour: Colour = Field(Colour.RED, description="Of its outside")
    default: int | None = None


class Machine(BaseModel):
    kind: Literal["a", "b"]
    main: Part = Field(description="The largest")
    others: dict[str, int] | None = None


class Small(BaseModel):
    main: Part
    note: str = Field("none", alias="remark")


def nodes(node: Any) -> list[dict[str, Any]]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return ([node] if isinstance(node, dict) else []) + [
        found for child in children for found in nodes(child)
    ]


def decoded(value: Any) -> Any:
    """Decode what the service or the reader of a part gets."""
    return msgspec.json.decode(msgspec.json.encode(value))


def test_chat_form() -> None:
    """The endpoint's own form, with a name that the service accepts; a dict is sent unchanged."""
    (request,) = requests_from(["x"], endpoint="/v1/chat/completions", model="m", schema=OutputSchema(LABEL))
    assert decoded(request.body["response_format"]) == {
        "type": "json_schema",
        "json_schema": {"name": "a_label_", "schema": LABEL, "strict": True},
    }


def test_responses_form() -> None:
    """The other settings under ``text`` are kept."""
    body = {"input": "x", "text": {"verbosity": "low"}}
    (request,) = requests_from([body], endpoint="/v1/responses", model="m", schema=OutputSchema(LABEL, "n"))
    assert decoded(request.body["text"]) == {
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "n", "schema": LABEL, "strict": True},
    }


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": [], "response_format": {"type": "text"}}, "response_format"),
        ("/v1/responses", {"input": "", "text": {"format": {"type": "text"}}}, "format"),
    ],
)
def test_body_with_a_form_of_its_own(endpoint: str, body: dict[str, Any], field: str) -> None:
    """A body that already asks for a form is refused."""
    with pytest.raises(InvalidInputError, match=f"Row 0: its body already has '{field}'"):
        list(requests_from([body], endpoint=endpoint, model="m", schema=OutputSchema(LABEL)))


def test_endpoint_without_schemas() -> None:
    """Refused at once."""
    with pytest.raises(InvalidInputError, match="embeddings takes no output_schema"):
        requests_from([], endpoint="/v1/embeddings", schema=OutputSchema(LABEL))


def test_strict_form_of_a_model() -> None:
    """No object allows other properties, all properties are required, and no keyword stands beside a $ref."""
    schema = OutputSchema(Small)
    jsonschema.Draft202012Validator.check_schema(schema.schema)
    objects = [node for node in nodes(schema.schema) if node.get("type") == "object"]
    assert len(objects) == 2
    for node in objects:
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
    assert all(len(node) == 1 for node in nodes(schema.schema) if "$ref" in node)
    assert list(schema.schema["$defs"]["Part"]["properties"]) == ["name", "parts", "colour", "default"]
    assert schema.name == "Small"


def test_model_that_contains_itself() -> None:
    """The root of a model that contains itself is an object, as the service requires."""
    schema = OutputSchema(Part).schema
    assert schema["type"] == "object"
    assert schema["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}


def test_model_with_keys_of_any_name() -> None:
    """The error names the field that has no strict form."""
    with pytest.raises(InvalidInputError, match=r"Machine\.others allows keys of any name"):
        OutputSchema(Machine)


def test_model_that_is_no_object() -> None:
    """A list at the root has no strict form."""

    class Names(RootModel[list[str]]):
        pass

    with pytest.raises(InvalidInputError, match="Names is not an object"):
        OutputSchema(Names)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, r"output_schema\.type is not a valid JSON schema: 'objekt'"),
        ({"properties": {"a": {"minimum": "1"}}}, r"output_schema\.properties\.a\.minimum is not a valid"),
        ({"$ref": "#/$defs/nothing"}, r"the \$ref '#/\$defs/nothing' does not resolve"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "does not resolve"),
        ("{}", "output_schema must be a dict or a pydantic model, not '{}'"),
        (dict, "not <class 'dict'>"),
    ],
)
def test_invalid_schema(schema: Any, message: str) -> None:
    """Found before anything is sent, with its place; a reference is never looked up in the network."""
    with pytest.raises(InvalidInputError, match=message):
        OutputSchema(schema)


def test_answers_against_a_dict() -> None:
    """The result is the value, or what is wrong and where."""
    schema = OutputSchema(LABEL)
    assert schema.check('{"label": "good"}') == ({"label": "good"}, None)
    assert schema.check('{"label": "ugly"}') == (None, "$.label: 'ugly' is not one of ['good', 'bad']")
    assert "malformed" in (schema.check("label: good")[1] or "")
    assert "truncated" in (schema.check('{"label": "go')[1] or "")


def test_answers_against_a_model() -> None:
    """The value is JSON, with the names that the model was asked for."""
    schema = OutputSchema(Small)
    text = '{"main": {"name": "x", "parts": [], "colour": "red", "default": null}, "remark": "r"}'
    value, error = schema.check(text)
    assert error is None
    assert decoded(value) == {
        "main": {"name": "x", "parts": [], "colour": "red", "default": None},
        "remark": "r",
    }
    assert "main" in (schema.check("{}")[1] or "")


class Wordless(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("no attribute"),
        KeyError("key"),
        TypeError(),
        ZeroDivisionError("x"),
        Wordless(),
        RecursionError("deep"),
        StopIteration(),
        AssertionError("assertion"),
        ValueError("value"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("place", ["before", "after", "field", "computed"])
def test_validator_that_raises_anything(tmp_path: Path, error: Exception, place: str) -> None:
    """The row is invalid_output with what was raised, and the others land."""

    def trip(text: str) -> str:
        if text == "bad":
            raise error
        return text

    class Tripping(BaseModel):
        label: str

        if place == "before":

            @model_validator(mode="before")
            @classmethod
            def before(cls, value: Any) -> Any:
                trip(value["label"])
                return value

        elif place == "after":

            @model_validator(mode="after")
            def after(self) -> Any:
                trip(self.label)
                return self

        elif place == "field":

            @field_validator("label")
            @classmethod
            def field(cls, value: str) -> str:
                return trip(value)

        else:

            @computed_field  # type: ignore[prop-decorator]
            @property
            def computed(self) -> str:
                return trip(self.label)

    schema = OutputSchema(Tripping)
    job = prepare(tmp_path, ["a", "b"], schema=schema)
    lines = [answered(f"row-{n}", chat(f'{{"label": "{label}"}}')) for n, label in enumerate(("bad", "good"))]
    merge(noted(tmp_path, job, lines, retry_invalid=schema), tmp_path / "out", schema=schema)
    first, second = read_parts(tmp_path / "out")
    assert (first["status"], first["output"]) == ("invalid_output", '{"label": "bad"}')
    assert first["error"]["message"]
    assert (second["status"], second["output"]["label"]) == ("succeeded", "good")


def test_error_of_a_validator_is_named() -> None:
    """KeyError('label') alone would read as a label."""

    class Model(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def before(cls, value: Any) -> Any:
            return value["label"]

    assert OutputSchema(Model).check("{}") == (None, "KeyError: 'label'")


def test_model_reads_and_writes_what_is_not_quite_json() -> None:
    """Lone surrogates are replaced, and NaN, which a model may be configured to write, is null."""

    class Odd(BaseModel):
        model_config = ConfigDict(ser_json_inf_nan="constants")
        note: str
        number: float

    schema = OutputSchema(Odd)
    value, error = schema.check('\ufeff{"note": "a\\ud800\\ud83d\\ude00", "number": 1}')
    assert (decoded(value), error) == ({"note": "a\ufffd\U0001f600", "number": 1.0}, None)
    assert decoded(schema.check('{"note": "Infinity", "number": NaN}')[0]) == {
        "note": "Infinity",
        "number": None,
    }


@pytest.mark.parametrize(
    ("divisor", "text", "fits"),
    [
        (0.01, "19.99", True),
        (0.01, "1.1", True),
        (0.01, "19.999", False),
        (0.1, "0.3", True),
        (1e-9, "123456.000000001", True),
        (0.01, "1e300", True),
        (5, "15", True),
        (5, "15.0", True),
        (5, "16", False),
        (0.01, "-0.07", True),
        (3, "123456789012345678901234567890", True),
        (0.01, '"19.999"', True),
        (0.01, "true", True),
    ],
)
def test_multiple_of(divisor: float, text: str, fits: bool) -> None:
    """Decimals are compared as decimals; what is no number is not asked."""
    error = OutputSchema({"multipleOf": divisor}).check(text)[1]
    assert error == (None if fits else f"$: {text} is not a multiple of {divisor}")


@given(count=st.integers(-(10**9), 10**9), digits=st.integers(0, 6), off=st.integers(0, 9))
def test_multiple_of_any_decimal(count: int, digits: int, off: int) -> None:
    """A number with so many digits after the point is a multiple of its last place."""
    number = Decimal(count).scaleb(-digits)
    schema = OutputSchema({"multipleOf": float(Decimal(1).scaleb(-digits))})
    assert schema.check(f"{number:f}")[1] is None
    more = number + Decimal(off).scaleb(-digits - 1)
    assert (schema.check(f"{more:f}")[1] is None) is (off == 0)
