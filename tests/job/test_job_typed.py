"""Parquet parts whose output has a type: that of the schema, or lists of a fixed size."""

from __future__ import annotations

import json
from decimal import Decimal  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobkit import answered, chat, failed, noted, prepare
from pydantic import BaseModel
from resultskit import finished

from airflow_provider_openai_batches.inference.data.arrow import json_reader
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.outcomes import SUCCEEDED
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
from airflow_provider_openai_batches.inference.data.output_types import Fitter, output_type
from airflow_provider_openai_batches.inference.data.results import Answer
from airflow_provider_openai_batches.inference.data.writers.outputs import Typed
from airflow_provider_openai_batches.results import read_results

if TYPE_CHECKING:
    from pathlib import Path

EMBEDDINGS = "/v1/embeddings"


class Owner(BaseModel):
    name: str
    since: int | None


class Place(BaseModel):
    """What was found out about a place."""

    city: str
    runways: int | None
    height: float
    is_open: bool
    kind: Literal["civil", "military"]
    tags: list[str]
    owner: Owner
    earlier: list[Owner] | None
    more: dict[str, int]
    size: int | str
    price: Decimal


PLACE = {
    "city": "Oslo",
    "runways": 2,
    "height": 1.5,
    "is_open": True,
    "kind": "civil",
    "tags": ["a", "é"],
    "owner": {"name": "x", "since": None},
    "earlier": [{"name": "y", "since": 1900}],
    "more": {"n": 1},
    "size": "large",
    "price": "1.50",
}
OWNER = {"name": "text", "since": "integer"}
PLACE_TYPE = {
    "city": "text",
    "runways": "integer",
    "height": "number",
    "is_open": "boolean",
    "kind": "text",
    "tags": ["text"],
    "owner": OWNER,
    "earlier": [OWNER],
    "more": "json",
    "size": "json",
    "price": "text",
}


def parts_of(directory: Path) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(directory.glob("part-*.parquet"))]


def test_a_model_becomes_a_struct(tmp_path: Path) -> None:
    """In every part, also in one without an answer; what the model leaves open is JSON in its place."""
    form = OutputSchema(Place, strict=False)
    assert form.output_type == PLACE_TYPE
    job = prepare(tmp_path, ["a", "b", "c"], schema=form)
    lines = [
        answered("row-0", chat(json.dumps(PLACE))),
        failed("row-1", "batch_expired"),
        answered("row-2", chat('{"city": "Oslo"')),
    ]
    options: dict[str, Any] = {"output_format": "parquet", "typed_output": True, "rows_per_part": 1}
    merge(noted(tmp_path, job, lines), tmp_path / "out", schema=form, **options)
    tables = parts_of(tmp_path / "out")
    assert len({str(table.schema) for table in tables}) == 1
    assert tables[0].column_names == [
        *("custom_id", "status", "output", "output_text", "usage", "error", "finish_reason")
    ]
    (good,), (late,), (bad,) = (table.to_pylist() for table in tables)
    assert good["output"] == {**PLACE, "more": '{"n":1}', "size": '"large"'}
    assert (good["output_text"], late["output"], late["output_text"]) == (None, None, None)
    assert (bad["status"], bad["output"], bad["output_text"]) == ("invalid_output", None, '{"city": "Oslo"')


INTEGER = {"type": "integer"}
NODE = {"properties": {"of": {"items": {"$ref": "#/$defs/n"}, "type": "array"}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "json"),
        (True, "json"),
        ({"type": "null"}, "json"),
        ({"type": ["string", "null"]}, "text"),
        ({"type": ["integer", "number"]}, "number"),
        ({"type": ["string", "integer"]}, "json"),
        ({"enum": ["a", "b", None]}, "text"),
        ({"enum": [1, 2.5]}, "number"),
        ({"enum": ["a", 1]}, "json"),
        ({"const": True}, "boolean"),
        ({"type": "object"}, "json"),
        ({"type": "object", "properties": {}}, "json"),
        ({"properties": {"a": {"type": "string"}}}, {"a": "text"}),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, "json"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}}, "json"),
        ({"type": "object", "properties": {"a": {}}, "patternProperties": {"b": {}}}, "json"),
        ({"type": "object", "properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]}, "json"),
        ({"type": "object", "properties": {"a": {}, "A": {}}}, "json"),
        ({"type": "array"}, ["json"]),
        ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}, [["integer"]]),
        ({"prefixItems": [INTEGER, {"type": "number"}], "items": False, "type": "array"}, ["number"]),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "maxItems": 1}, ["integer"]),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, ["json"]),
        ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, ["integer"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "number"),
        ({"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "string"}]}, "json"),
        ({"allOf": [{"type": "string"}]}, "text"),
        ({"allOf": [{"type": "string"}, {"type": "string"}]}, "json"),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "string"}}}, "text"),
        ({"$ref": "#/nowhere"}, "json"),
        ({"$ref": "https://example.com/schema"}, "json"),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}}, {"next": "json"}),
        ({"$ref": "#/$defs/n", "$defs": {"n": NODE}}, {"of": ["json"]}),
    ],
)  # fmt: skip
def test_the_type_comes_from_the_schema_alone(schema: Any, expected: Any) -> None:
    assert output_type(schema) == expected


@pytest.mark.parametrize(
    ("value", "output", "is_whole"),
    [
        ({"n": 1, "t": "x"}, {"n": 1, "t": "x", "of": None}, True),
        ({"n": 1.0, "of": [1, 2.5]}, {"n": 1, "t": None, "of": [1.0, 2.5]}, True),
        ({"n": 1.5, "t": "x"}, {"n": None, "t": "x", "of": None}, False),
        ({"n": 2**63}, {"n": None, "t": None, "of": None}, False),
        ({"n": True}, {"n": None, "t": None, "of": None}, False),
        ({"t": 1}, {"n": None, "t": None, "of": None}, False),
        ({"t": "x", "extra": 1}, {"n": None, "t": "x", "of": None}, False),
        ({"of": [2**53 + 1]}, {"n": None, "t": None, "of": [2.0**53]}, False),
        ({"of": [10**400, "x"]}, {"n": None, "t": None, "of": [None, None]}, False),
        ([{"n": 1}], None, False),
        (None, None, True),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_kept_beside_the_output(value: Any, output: Any, is_whole: bool) -> None:
    """A schema may be open, or hold numbers that no column does: nothing is lost, and nothing breaks."""
    assert Fitter({"n": "integer", "t": "text", "of": ["number"]}).fit(value) == (output, is_whole)


def test_an_open_schema_and_several_choices(tmp_path: Path) -> None:
    """The text has the whole answer as JSON."""
    form = OutputSchema({"type": "object", "properties": {"a": {"type": "integer"}}}, strict=False)
    job = prepare(tmp_path, ["a", "b", "c"], schema=form)
    two = chat('{"a": 1}')
    two["choices"].append(chat('{"a": 2}')["choices"][0])
    lines = [
        answered("row-0", chat('{"a": 1, "b": [2]}')),
        answered("row-1", two),
        answered("row-2", chat('{"a": 3}')),
    ]
    index = noted(tmp_path, job, lines)
    merge(index, tmp_path / "out", schema=form, output_format="parquet", typed_output=True)
    (table,) = parts_of(tmp_path / "out")
    assert table["status"].to_pylist() == ["succeeded"] * 3
    assert table["output"].to_pylist() == [{"a": 1}, None, {"a": 3}]
    assert table["output_text"].to_pylist() == ['{"a":1,"b":[2]}', '[{"a":1},{"a":2}]', None]


NAMES = st.text("ab", min_size=1)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(NAMES, values, max_size=3)),
    max_leaves=8,
)
KINDS = st.recursive(
    st.sampled_from(["text", "integer", "number", "boolean", "json"]),
    lambda kinds: st.one_of(
        kinds.map(lambda kind: [kind]), st.dictionaries(NAMES, kinds, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(kind=KINDS, values=st.lists(VALUES, max_size=4))
def test_any_value_of_any_type_is_kept(kind: Any, values: list[Any]) -> None:
    """What is read from the two columns is what was put in; an object may gain nulls for its fields."""
    typed = Typed(kind)
    pairs = [typed.values(Answer(SUCCEEDED, value, None))[0] for value in values]
    columns = [typed.column([pair[place] for pair in pairs], place) for place in (0, 1)]
    read = json_reader(typed.fields[0]) or (lambda value: value)
    for value, output, text in zip(values, *(column.to_pylist() for column in columns), strict=True):
        found = read(output) if text is None else json.loads(text)
        assert without_nulls(found) == without_nulls(value)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(child) for name, child in value.items() if child is not None}
    return [without_nulls(child) for child in value] if isinstance(value, list) else value


def test_rows_are_the_same_in_all_formats(tmp_path: Path) -> None:
    """``read_results`` gives values, whatever the parts hold; tables have the columns of the parts."""
    rows = [{"id": f"p{number}", "text": json.dumps({**PLACE, "runways": number})} for number in range(6)]
    uris = [
        finished(tmp_path / "lines", rows, schema=Place),
        finished(tmp_path / "typed", rows, schema=Place, output_format="parquet", typed_output=True),
    ]
    lines, typed = ([row["output"] for row in read_results(uri)] for uri in uris)
    assert lines == typed == [{**PLACE, "runways": number} for number in range(6)]
    assert read_results(uris[1]).to_arrow()["output"].to_pylist()[5]["runways"] == 5


# -- vectors -----------------------------------------------------------------------------------------------


def vectors(*values: Any) -> dict[str, Any]:
    return {"data": [{"embedding": value, "index": index} for index, value in enumerate(values)]}


def embedded(work: Path, rows: list[Any], lines: list[bytes], **options: Any) -> list[pa.Table]:
    job = prepare(work, rows, endpoint=EMBEDDINGS)
    index = noted(work, job, lines)
    merge(index, work / "out", output_format="parquet", typed_output=True, **options)
    return parts_of(work / "out")


SIZED = pa.list_(pa.float32(), 2)
ANY_SIZE = pa.list_(pa.float32())


def test_vectors_have_a_fixed_size(tmp_path: Path) -> None:
    """In every part, if each row has one of the same size."""
    lines = [answered(f"row-{number}", vectors([number, 0.5])) for number in range(3)]
    tables = embedded(tmp_path, ["a"] * 3, lines, rows_per_part=1)
    assert [table.schema.field("output").type for table in tables] == [SIZED] * 3
    assert tables[0].column_names == ["custom_id", "status", "output", "usage", "error", "finish_reason"]
    assert pa.concat_tables(tables)["output"].to_pylist() == [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]]


@pytest.mark.parametrize(
    ("line", "last"),
    [
        (answered("row-2", vectors([1, 2, 3])), [1.0, 2.0, 3.0]),
        (answered("row-2", vectors([1, None])), None),
        (answered("row-2", {"data": "none"}), None),
        (failed("row-2", "batch_expired"), None),
    ],
    ids=["another size", "no vector", "another form", "expired"],
)
def test_vectors_that_differ_have_no_fixed_size(tmp_path: Path, line: bytes, last: Any) -> None:
    """No part has, also not those that were written before it was known; and nothing is counted twice."""
    lines = [*(answered(f"row-{number}", vectors([number, 0.5])) for number in (0, 1)), line]
    job = prepare(tmp_path, ["a"] * 3, endpoint=EMBEDDINGS)
    options: dict[str, Any] = {"output_format": "parquet", "typed_output": True, "rows_per_part": 1}
    merged = merge(noted(tmp_path, job, lines), tmp_path / "out", **options)
    tables = parts_of(tmp_path / "out")
    assert [table.schema.field("output").type for table in tables] == [ANY_SIZE] * 3
    assert pa.concat_tables(tables)["output"].to_pylist() == [[0.0, 0.5], [1.0, 0.5], last]
    assert sum(merged.counts.values()) == len(merged.parts) == 3


@pytest.mark.parametrize(("third", "kind"), [([7, 8], SIZED), ([9], ANY_SIZE)])
def test_vectors_of_several_inputs(tmp_path: Path, third: list[int], kind: Any) -> None:
    lines = [
        answered("row-0", vectors([1, 2], [3, 4])),
        answered("row-1", vectors([5, 6])),
        answered("row-2", vectors([7, 8], third)),
    ]
    rows = [{"input": ["a", "b"]}, {"input": "c"}, {"input": ["d", "e"]}]
    (table,) = embedded(tmp_path, rows, lines)
    assert table.schema.field("output").type.value_type == kind
    assert table["output"].to_pylist() == [[[1, 2], [3, 4]], [[5, 6]], [[7, 8], third]]
