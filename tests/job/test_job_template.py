"""Templates: values are never interpreted."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.requests import BodyTemplate

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
BRACES = st.text(alphabet="{}x a\n%$\\\"'")


@given(value=JSON | BRACES)
def test_value_comes_through_unchanged(value: Any) -> None:
    """A placeholder that is the whole string becomes the value itself, at any depth."""
    template = BodyTemplate({"a": [{"b": "{x}"}], "{x}": "{x}"})
    assert template.render({"x": value}) == {"a": [{"b": value}], "{x}": value}


@given(before=BRACES, value=BRACES, after=BRACES)
def test_text_in_text_is_never_interpreted(before: str, value: str, after: str) -> None:
    """Braces in a value stay, and so do doubled braces around the placeholder."""
    text = before.replace("{", "{{").replace("}", "}}") + "{x}" + after.replace("{", "{{").replace("}", "}}")
    assert BodyTemplate(text).render({"x": value, "": "no", "y": "no"}) == before + value + after


@given(template=JSON)
def test_template_without_placeholders_is_itself(template: Any) -> None:
    """A template in which every brace is doubled gives the same text for each row."""

    def doubled(node: Any) -> Any:
        if isinstance(node, str):
            return node.replace("{", "{{").replace("}", "}}")
        if isinstance(node, dict):
            return {key: doubled(value) for key, value in node.items()}
        return [doubled(value) for value in node] if isinstance(node, list) else node

    assert BodyTemplate(doubled(template)).render({}) == template


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("{y} {{ ds }}", "{y} {{ ds }}"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        (dt.date(2025, 1, 31), "2025-01-31"),
        (dt.datetime(2025, 1, 31, 12, tzinfo=dt.UTC), "2025-01-31T12:00:00Z"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_values_inside_text(value: Any, text: str) -> None:
    """Text stays as it is, dates and numbers of a database become text, everything else compact JSON."""
    assert BodyTemplate("<{a b.c}>").render({"a b.c": value}) == f"<{text}>"


def test_escapes() -> None:
    """Doubled braces become single ones, beside placeholders too."""
    assert BodyTemplate("{{{x}}} {{x}} }}{{").render({"x": 1}) == "{1} {x} }{"


def test_order_of_keys_stays() -> None:
    """The keys keep the order of the template, whichever of them depend on the row."""
    rendered = BodyTemplate({"z": "{x}", "a": 1, "m": ["{x}", 2]}).render({"x": 3})
    assert json.dumps(rendered) == '{"z": 3, "a": 1, "m": [3, 2]}'


def test_rows_do_not_share_what_is_filled() -> None:
    """Rendering a row does not change the bodies of the rows before it."""
    template = BodyTemplate({"a": ["{x}"]})
    first, second = template.render({"x": 1}), template.render({"x": 2})
    assert (first, second) == ({"a": [1]}, {"a": [2]})


def test_unknown_column() -> None:
    """The error names the missing column and the columns that there are."""
    with pytest.raises(InvalidInputError, match="no column 'tex'; its columns are id, text"):
        BodyTemplate(["{tex}"]).render({"id": 1, "text": "a"})


def test_json_in_a_template_is_told_apart() -> None:
    """The error has a hint if braces were meant as JSON."""
    with pytest.raises(InvalidInputError, match="write a brace twice if it is meant as text"):
        BodyTemplate('Answer as {"label": "…"}').render({"text": "a"})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": [{"b": "x {"}]}, r"body\.a\[0\]\.b has a single '\{': write '\{\{'"),
        ("{x}}", r"body has a single '\}'"),
        ("{}", r"body has a single '\{'"),
        ({1: "a"}, "body has the key 1: keys must be strings"),
        ({"a": len}, r"body\.a is <built-in function len>"),
    ],
)
def test_faulty_template(template: Any, message: str) -> None:
    """A faulty template is refused when it is made; the error says where the fault is."""
    with pytest.raises(InvalidInputError, match=message):
        BodyTemplate(template)


def test_value_without_text() -> None:
    """The error names the column of a value that cannot be JSON."""
    with pytest.raises(InvalidInputError, match=r"column 'x': .*object"):
        BodyTemplate("a {x}").render({"x": object()})


def test_speed() -> None:
    """50,000 rows take a fraction of a second."""
    template = BodyTemplate({"messages": [{"role": "user", "content": "{a}: {b}"}], "n": "{n}"})
    begun = time.process_time()
    for number in range(50_000):
        template.render({"a": "x", "b": "y" * 100, "n": number})
    assert time.process_time() - begun < 1
