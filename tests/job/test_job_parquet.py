"""Parts as Parquet."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobkit import answered, chat, failed, noted, prepare

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.merge import check_output, merge
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
from airflow_provider_openai_batches.inference.data.writers import parquet

if TYPE_CHECKING:
    from pathlib import Path

EMBEDDINGS = "/v1/embeddings"


def vectors(*values: Any) -> dict[str, Any]:
    return {"data": [{"embedding": value, "index": index} for index, value in enumerate(values)]}


def tables(directory: Path) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(directory.glob("part-*.parquet"))]


def test_rows(tmp_path: Path) -> None:
    """The columns are those of the JSON lines, and have the same types in all parts."""
    rows: list[dict[str, Any]] = [
        {"i": 1, "f": 1, "s": "a", "b": True, "mixed": 1, "nothing": None, "big": 2**63, "json": {"x": [1]}},
        {"i": None, "f": 2.5, "s": "é", "b": None, "mixed": "x", "nothing": None, "big": 1, "json": None},
    ]
    columns = list(rows[0])
    job = prepare(tmp_path, rows, body="Say {s}", keep_columns=columns)
    index = noted(tmp_path, job, [failed("row-1", "batch_expired"), answered("row-0", chat("A"))])
    merged = merge(index, tmp_path / "out", output_format="parquet", rows_per_part=1)
    first, second = tables(tmp_path / "out")
    assert first.schema == second.schema
    assert [part.file for part in merged.parts] == ["part-00000.parquet", "part-00001.parquet"]
    assert [part.bytes for part in merged.parts] == [
        (tmp_path / "out" / part.file).stat().st_size for part in merged.parts
    ]
    kept = {"i": "int64", "f": "double", "s": "string", "b": "bool"} | dict.fromkeys(columns[4:], "string")
    assert {name: str(first.schema.field(name).type) for name in columns} == kept
    assert first.column_names == [
        "custom_id",
        *columns,
        "status",
        "output",
        "usage",
        "error",
        "finish_reason",
    ]
    (row,) = first.to_pylist()
    assert (row["mixed"], row["big"], row["json"], row["f"]) == ("1", str(2**63), '{"x":[1]}', 1.0)
    assert (row["output"], row["usage"]["total_tokens"], row["error"]) == ("A", 5, None)
    (row,) = second.to_pylist()
    assert (row["i"], row["mixed"], row["nothing"], row["big"]) == (None, "x", None, "1")
    assert (row["status"], row["output"], row["usage"]) == ("expired", None, None)
    assert row["error"] == {"code": "batch_expired", "message": "It was batch_expired."}


@pytest.mark.parametrize("group", [1, 10_000])
def test_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    """Lists of floats, from numbers or base64; null if there is no embedding."""
    monkeypatch.setattr(parquet, "_GROUP_ROWS", group)
    job = prepare(tmp_path, ["a", "b", "c", "d"], endpoint=EMBEDDINGS)
    packed = base64.b64encode(struct.pack("<2f", 1.5, -2)).decode()
    lines = [
        answered("row-3", {"data": "none"}),
        answered("row-2", vectors(packed)),
        answered("row-0", vectors([0.5, 0.25, 1])),
        failed("row-1", "batch_expired"),
    ]
    merge(noted(tmp_path, job, lines), tmp_path / "out", output_format="parquet")
    (table,) = tables(tmp_path / "out")
    assert str(table.schema.field("output").type).startswith("list<")
    assert table.schema.field("output").type.value_type == pa.float32()
    assert table["output"].to_pylist() == [[0.5, 0.25, 1.0], None, [1.5, -2.0], None]
    assert table["status"].to_pylist() == ["succeeded", "expired", "succeeded", "failed"]


def test_embeddings_of_several_inputs(tmp_path: Path) -> None:
    """If any request has several inputs, every output is a list of lists."""
    job = prepare(tmp_path, [{"input": ["a", "b"]}, {"input": "c"}, {"input": ["d"]}], endpoint=EMBEDDINGS)
    lines = [answered("row-1", vectors([3.0])), answered("row-0", vectors([1.0], [2.0, 2.0]))]
    merge(noted(tmp_path, job, lines), tmp_path / "out", output_format="parquet")
    assert tables(tmp_path / "out")[0]["output"].to_pylist() == [[[1.0], [2.0, 2.0]], [[3.0]], None]


def test_structured_output(tmp_path: Path) -> None:
    """Values are JSON text; a text that does not match the schema stays as it is."""
    schema = OutputSchema({"type": "object"}, strict=False)
    job = prepare(tmp_path, ["a", "b"], schema=schema)
    lines = [answered("row-0", chat('{"a": 1}')), answered("row-1", chat("[1]"))]
    merge(noted(tmp_path, job, lines), tmp_path / "out", schema=schema, output_format="parquet")
    assert tables(tmp_path / "out")[0]["output"].to_pylist() == ['{"a":1}', "[1]"]


def test_whole_bodies(tmp_path: Path) -> None:
    """With output="body" embeddings are JSON text too."""
    job = prepare(tmp_path, ["a"], endpoint=EMBEDDINGS)
    index = noted(tmp_path, job, [answered("row-0", vectors([1]))])
    merge(index, tmp_path / "out", output="body", output_format="parquet")
    assert tables(tmp_path / "out")[0]["output"].to_pylist()[0].startswith('{"data": [{"embedding"')


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing pyarrow is found before anything is spent."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    check_output("text", "jsonl")
    with pytest.raises(InvalidInputError, match=r"install airflow-provider-openai-batches\[parquet\]"):
        check_output("text", "parquet")


def test_cut_answer(tmp_path: Path) -> None:
    """It has the same mark as in JSON lines."""
    body = chat("half")
    body["choices"][0]["finish_reason"] = "length"
    job = prepare(tmp_path, ["a", "b"])
    lines = [answered("row-0", body), answered("row-1", chat("whole"))]
    merge(noted(tmp_path, job, lines), tmp_path / "out", output_format="parquet")
    assert tables(tmp_path / "out")[0]["finish_reason"].to_pylist() == ["length", None]


@pytest.mark.parametrize("inputs", ["a", ["a", "b"]])
def test_no_success_is_null(tmp_path: Path, inputs: Any) -> None:
    """A vector that is not one is null, and its row has failed and says why."""
    good = [0.5]
    bad: tuple[Any, ...] = ([0.1, None], [], None, "AACAPw", {}, [[1]])
    job = prepare(tmp_path, [{"input": inputs}] * (len(bad) + 1), endpoint=EMBEDDINGS)
    lines = [answered(f"row-{number}", vectors(value)) for number, value in enumerate((*bad, good))]
    merge(noted(tmp_path, job, lines), tmp_path / "out", output_format="parquet")
    (table,) = tables(tmp_path / "out")
    assert table["status"].to_pylist() == ["failed"] * len(bad) + ["succeeded"]
    assert all(error["code"] == "no_value" for error in table["error"].to_pylist()[:-1])
    assert table["output"].to_pylist()[-1] == (good if inputs == "a" else [good])


def test_odd_values_fit_their_columns(tmp_path: Path) -> None:
    """Numbers of tokens that no column holds, and a refusal that is no text."""
    refusal = {"type": "refusal", "refusal": {"why": "x"}}
    job = prepare(tmp_path, ["a", "b"], endpoint="/v1/responses")
    lines = [
        answered("row-0", {"output": [{"type": "message", "content": [refusal]}]}),
        answered("row-1", {"output": [], "usage": {"input_tokens": 2**63, "total_tokens": 2**70}}),
    ]
    merge(noted(tmp_path, job, lines), tmp_path / "out", output_format="parquet")
    assert tables(tmp_path / "out")[0]["status"].to_pylist() == ["failed", "failed"]
