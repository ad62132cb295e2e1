"""The kinds of values: from a schema, and values made to fit a column."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from airflow_provider_openai_batches.sql.kinds import (
    Bounds,
    Kind,
    converter,
    kind_at,
    properties_of,
    schema_of,
)


class Part(BaseModel):
    name: str
    parent: Part | None = None


class Whole(BaseModel):
    parts: list[Part]
    first: Part
    maybe: int | None = Field(alias="mayBe")
    either: int | float
    mixed: int | str
    price: Any
    extra: dict[str, bool]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("parts", "json"),
        ("parts.0", "json"),
        ("parts.0.name", "text"),
        ("first.parent.parent.name", "text"),
        ("mayBe", "integer"),
        ("either", "number"),
        ("mixed", "text"),
        ("price", None),
        ("price.anything", None),
        ("extra.some", "boolean"),
    ],
)
def test_kinds_by_a_schema(path: str, kind: Kind | None) -> None:
    """References, alternatives, null, lists, and objects with any keys."""
    assert kind_at(schema_of(Whole), path.split(".")) == kind


def test_a_path_that_a_schema_does_not_have() -> None:
    for path, missing in ((["town"], "town"), (["first", "age"], "age"), (["mayBe", "x"], "x")):
        with pytest.raises(LookupError) as found:
            kind_at(schema_of(Whole), path)
        assert found.value.args[0] == missing
    assert properties_of(schema_of(Whole))[:2] == ["parts", "first"]


def test_schemas_of_other_forms() -> None:
    for schema, kind in (
        ({"enum": [1, 2]}, "integer"),
        ({"const": "a"}, "text"),
        ({"type": ["string", "null"], "format": "date"}, "date"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, "boolean"),
        (
            {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]},
            "timestamp",
        ),
        ({"$ref": "#"}, None),
        ({}, None),
    ):
        assert kind_at(schema, []) == kind


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", {"a": 1}, '{"a":1}'),
        ("text", 1.5, "1.5"),
        ("text", True, "true"),
        ("integer", "-12", -12),
        ("integer", 3.0, 3),
        ("integer", True, 1),
        ("number", "1e3", 1000.0),
        ("number", 7, 7),
        ("boolean", "True", True),
        ("boolean", 0, False),
        ("json", "text", '"text"'),
        ("json", '{"a": 1}', '{"a": 1}'),
        ("json", "[not json", '"[not json"'),
        ("json", [1, "é"], '[1,"é"]'),
        ("date", " 2025-03-01 ", "2025-03-01"),
        ("timestamp", "2025-03-01T12:00:00Z", "2025-03-01 12:00:00+00:00"),
        ("other", 12, "12"),
    ],
)
def test_values_that_fit(kind: Kind, value: Any, expected: Any) -> None:
    found = converter(kind, Bounds())(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "1.5"),
        ("integer", 1.5),
        ("integer", []),
        ("integer", 2**63),
        ("integer", 1e300),
        ("number", True),
        ("number", float("nan")),
        ("number", "x"),
        ("number", []),
        ("boolean", 2),
        ("boolean", "yes"),
        ("boolean", None),
        ("date", 20250301),
        ("date", "soon"),
        ("timestamp", 1),
        ("timestamp", "soon"),
        ("other", {}),
        ("text", "a\0"),
    ],
)
def test_values_that_do_not_fit(kind: Kind, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every message is for people
        converter(kind, Bounds())(value)


def test_what_databases_lack() -> None:
    """Booleans, and time zones."""
    assert converter("boolean", Bounds(), has_booleans=False)("true") == 1
    assert (
        converter("timestamp", Bounds(), has_zones=False)("2025-03-01T12:00:00+02:00")
        == "2025-03-01 10:00:00"
    )
    with pytest.raises(ValueError, match="the column takes -128 to 127"):
        converter("integer", Bounds(-128, 127))(128)
