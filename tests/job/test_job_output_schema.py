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
    AnyUrl,
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
    """The endpoint's own form, with a name that the service accepts; not strict, a dict is unchanged."""
    schema = OutputSchema(LABEL, strict=False)
    (request,) = requests_from(["x"], endpoint="/v1/chat/completions", model="m", schema=schema)
    assert decoded(request.body["response_format"]) == {
        "type": "json_schema",
        "json_schema": {"name": "a_label_", "schema": LABEL, "strict": False},
    }


def test_responses_form() -> None:
    """The other settings under ``text`` are kept."""
    body = {"input": "x", "text": {"verbosity": "low"}}
    schema = OutputSchema(LABEL, "n")
    (request,) = requests_from([body], endpoint="/v1/responses", model="m", schema=schema)
    assert decoded(request.body["text"]) == {
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "n", "schema": schema.schema, "strict": True},
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
    error = OutputSchema({"multipleOf": divisor}, strict=False).check(text)[1]
    assert error == (None if fits else f"$: {text} is not a multiple of {divisor}")


@given(count=st.integers(-(10**9), 10**9), digits=st.integers(0, 6), off=st.integers(0, 9))
def test_multiple_of_any_decimal(count: int, digits: int, off: int) -> None:
    """A number with so many digits after the point is a multiple of its last place."""
    number = Decimal(count).scaleb(-digits)
    schema = OutputSchema({"multipleOf": float(Decimal(1).scaleb(-digits))}, strict=False)
    assert schema.check(f"{number:f}")[1] is None
    more = number + Decimal(off).scaleb(-digits - 1)
    assert (schema.check(f"{more:f}")[1] is None) is (off == 0)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str]


class Zoo(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    place: tuple[float, str]
    site: AnyUrl


def test_model_that_is_mended() -> None:
    """A discriminated union, a set, a tuple and a URL keep their meaning: the model checks the answer."""
    schema = OutputSchema(Zoo)
    found = nodes(schema.schema)
    assert not {"oneOf", "discriminator", "uniqueItems", "prefixItems"} & {
        key for node in found for key in node
    }
    properties = schema.schema["properties"]
    assert properties["pet"]["anyOf"] == [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
    assert properties["place"]["items"] == {"anyOf": [{"type": "number"}, {"type": "string"}]}
    assert (properties["place"]["minItems"], properties["place"]["maxItems"]) == (2, 2)
    assert "format" not in properties["site"]
    good = '{"pet": {"kind": "cat", "lives": 9}, "place": [1, "a"], "site": "https://example.org"}'
    assert schema.check(good)[1] is None
    for wrong in (
        good.replace("cat", "dog"),
        good.replace('[1, "a"]', '["a", 1]'),
        good.replace("https", ""),
    ):
        assert schema.check(wrong)[1] is not None


@pytest.mark.parametrize("pattern", ["[", "(?P<n>a)(?P<n>b)", r"\p{L}+", "*", "a{99999999999999999999}"])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("draft", [{}, {"$schema": "http://json-schema.org/draft-07/schema#"}])
def test_pattern_that_cannot_be_read(pattern: str, draft: dict[str, str], *, strict: bool) -> None:
    """The answers could not be checked, after they were paid for."""
    schema = with_field({"type": "string", "pattern": pattern}, **draft)
    said = r"output_schema\.properties\.a\.properties\.b\.pattern is .*, which is no regular expression"
    with pytest.raises(InvalidInputError, match=said):
        OutputSchema(schema, strict=strict)
    # A value is not a pattern.
    OutputSchema(with_field({"type": "object", "enum": [{"pattern": pattern}]}), strict=False)


def with_field(field: dict[str, Any], **root: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": field}, "required": ["b"]}},
        "required": ["a"],
        **root,
    }


@pytest.mark.parametrize(
    ("field", "sent", "wrong"),
    [
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            {"anyOf": [{"type": "integer"}, {"type": "number"}]},
            "1",
        ),
        (
            {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            {"type": "array", "items": {"type": "integer"}},
            "[1, 1]",
        ),
        (
            {"prefixItems": [{"type": "integer"}, {"type": "integer"}], "items": False},
            {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
            "[1, 2, 3]",
        ),
        ({"type": "string", "pattern": "^(?!x)"}, {"type": "string"}, '"xy"'),
        ({"type": "string", "pattern": "^y"}, {"type": "string", "pattern": "^y"}, '"xy"'),
        ({"type": "string", "format": "uri"}, {"type": "string"}, None),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}, None),
        ({"enum": ["x", 1, None]}, {"enum": ["x", 1, None], "type": ["string", "integer", "null"]}, '"y"'),
        ({"const": True}, {"const": True, "type": "boolean"}, "false"),
        ({"type": "string", "not": {"const": "x"}}, {"type": "string"}, '"x"'),
    ],
)
def test_dict_that_is_mended(field: dict[str, Any], sent: dict[str, Any], wrong: str | None) -> None:
    """The service gets what it takes, and the answer is checked against what was given."""
    given = with_field(field)
    before = msgspec.json.encode(given)
    schema = OutputSchema(given)
    assert schema.schema["properties"]["a"]["properties"]["b"] == sent
    assert schema.schema["additionalProperties"] is False
    assert msgspec.json.encode(given) == before
    if wrong is not None:
        assert schema.check(f'{{"a": {{"b": {wrong}}}}}')[1] is not None


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (with_field({}), r"output_schema\.a\.b has no type"),
        (with_field({"description": "anything"}), r"output_schema\.a\.b has no type"),
        (with_field({"type": "array", "items": {}}), r"output_schema\.a\.b\[\] has no type"),
        (with_field({"type": "array", "items": True}), r"output_schema\.a\.b\[\] is True"),
        (with_field({"type": "array"}), r"output_schema\.a\.b does not say what its items are"),
        (with_field({"type": "object"}), r"output_schema\.a\.b allows keys of any name"),
        (with_field({"type": ["object", "null"]}), r"output_schema\.a\.b allows keys of any name"),
        (
            with_field({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}),
            r"output_schema\.a\.b allows keys of any name",
        ),
        (
            with_field({"type": "object", "properties": {"c": {"type": "string"}}}),
            r"output_schema\.a\.b\.c is not in 'required'",
        ),
        (with_field({"allOf": [{"type": "string"}]}), r"output_schema\.a\.b has an allOf"),
        (with_field({"$ref": "#/$defs/x"}, **{"$defs": {"x": {}}}), r"output_schema\.\$defs\.x has no type"),
        ({"type": "array", "items": {"type": "string"}}, "output_schema is not an object"),
        ({"anyOf": [{"type": "object"}]}, "output_schema is not an object"),
        ({"type": "object", "additionalProperties": True}, "output_schema allows keys of any name"),
    ],
)
def test_dict_that_strict_mode_refuses(schema: dict[str, Any], message: str) -> None:
    """Found before anything is spent, with the field; without strict mode it is sent as it is."""
    with pytest.raises(InvalidInputError, match=message) as caught:
        OutputSchema(schema)
    assert "strict=False" in str(caught.value)
    assert OutputSchema(schema, strict=False).schema == schema


def test_model_that_strict_mode_refuses() -> None:
    """Its fields may hold anything, so the service would refuse each request."""

    class Loose(BaseModel):
        anything: Any

    class Loosely(BaseModel):
        things: list[Any]

    with pytest.raises(InvalidInputError, match=r"Loose\.anything has no type"):
        OutputSchema(Loose)
    with pytest.raises(InvalidInputError, match=r"Loosely\.things\[\] has no type"):
        OutputSchema(Loosely)
    assert OutputSchema(Loose, strict=False).check('{"anything": [1]}')[1] is None


LEAVES = st.sampled_from(
    [
        {"type": "string", "format": "uri"},
        {"type": "integer"},
        {"enum": ["x"]},
        {"const": 1},
        {},
        {"title": "t"},
    ]
)


def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.dictionaries(st.sampled_from(["type", "items", "oneOf", "a"]), inner, max_size=3)
    return st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(lambda kinds: {"oneOf": kinds}),
        inner.map(lambda items: {"type": "array", "items": items, "uniqueItems": True}),
        st.lists(inner, min_size=1, max_size=2).map(lambda kinds: {"prefixItems": kinds}),
        names.map(lambda fields: {"type": "object", "properties": fields, "required": list(fields)}),
        names.map(lambda fields: {"properties": fields}),
    )


def schemas_in(node: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*node.get("properties", {}).values(), *node.get("anyOf", []), *filter(None, [node.get("items")])]
    return [node] + [found for child in inner for found in schemas_in(child)]


@given(field=st.recursive(LEAVES, wider, max_leaves=8))
def test_strict_form_of_any_schema(field: dict[str, Any]) -> None:
    """It is refused with a place and a way out, or every part of it is what the service takes."""
    try:
        schema = OutputSchema(with_field(field))
    except InvalidInputError:
        with pytest.raises(InvalidInputError, match=r"^output_schema\.a\.b.*strict=False"):
            OutputSchema(with_field(field))
        return
    for node in schemas_in(schema.schema):
        assert node.keys() & {"type", "anyOf", "$ref"}
        assert not node.keys() & {"oneOf", "prefixItems", "uniqueItems"}
        assert "format" not in node
        if node.get("type") == "object":
            assert (node["additionalProperties"], node["required"]) == (False, list(node["properties"]))
        if node.get("type") == "array":
            assert isinstance(node["items"], dict)
