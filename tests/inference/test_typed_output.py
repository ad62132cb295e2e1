"""``typed_output``: what a task with it writes, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inferencekit import again, job, rows
from pydantic import BaseModel
from support import run_task

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError
from airflow_provider_openai_batches.results import read_results

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

TYPED: dict[str, Any] = {"output_format": "parquet", "typed_output": True}
EMBEDDINGS: dict[str, Any] = {"endpoint": "/v1/embeddings", "model": "text-embedding-3-small"}


class Label(BaseModel):
    label: str
    score: float
    tags: list[str]


def test_structured_output(server: DevServer, out: Path) -> None:
    """Values of the schema's types, and the same from both formats."""
    given = rows(6, {2: "fail:400", 4: "refuse"})
    run_task(job(out / "typed", requests=given, output_schema=Label, **TYPED))
    run_task(job(out / "lines", requests=given, output_schema=Label))
    table = pq.read_table(out / "typed" / "part-00000.parquet")
    kind = pa.struct([("label", pa.string()), ("score", pa.float64()), ("tags", pa.list_(pa.string()))])
    assert str(table.schema.field("output").type).replace("element", "item") == str(kind)
    typed, lines = (list(read_results(out / name)) for name in ("typed", "lines"))
    assert [row["output"] for row in typed] == [row["output"] for row in lines]
    assert [row["output_text"] for row in typed] == [None] * 6


def test_embeddings(server: DevServer, out: Path) -> None:
    body = {"input": "{text}", "dimensions": 8}
    run_task(job(out, requests=rows(2), body=body, **EMBEDDINGS, **TYPED))
    table = pq.read_table(out / "part-00000.parquet")
    assert table.schema.field("output").type == pa.list_(pa.float32(), 8)
    assert table["output"].null_count == 0


def test_it_is_another_job(server: DevServer, out: Path) -> None:
    """The files of one form are not taken for those of the other, nor the other way round."""
    operator = job(out, requests=rows(2), output_schema=Label, **TYPED)
    first, before = run_task(operator), server.stats()["requests"]
    assert again(operator) == first
    assert server.stats()["requests"] == before
    with pytest.raises(InvalidInputError, match="another job"):
        again(operator, typed_output=False)


def test_a_task_that_is_changed_between_its_tries(server: DevServer, out: Path) -> None:
    """Its answers are there, and are written in the form that is asked for now."""
    operator = job(
        out, requests=rows(4, {1: "fail:400"}), output_schema=Label, output_format="parquet", fail_on="any"
    )
    with pytest.raises(BatchFailed):
        run_task(operator)
    before = server.stats()["requests"]["create_batch"]
    again(operator, typed_output=True, fail_on="none")
    assert server.stats()["requests"]["create_batch"] == before
    assert pa.types.is_struct(pq.read_schema(out / "part-00000.parquet").field("output").type)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"output_schema": Label}, "typed_output=True needs output_format='parquet', not 'jsonl'"),
        ({"output_format": "parquet"}, "typed_output=True needs an output_schema, or embeddings"),
        (
            {"output_format": "parquet", "output_schema": Label, "output": "body"},
            "typed_output=True needs output='text'",
        ),
    ],
)
def test_where_no_output_has_a_type(arguments: dict[str, Any], said: str, out: Path) -> None:
    """It is refused when the DAG is parsed."""
    with pytest.raises(InvalidInputError, match=said):
        job(out, requests=rows(1), typed_output=True, **arguments)


def test_an_endpoint_that_is_a_template(server: DevServer, out: Path) -> None:
    """It is known when the task runs."""
    operator = job(out, requests=rows(1), **{**TYPED, "endpoint": "{{ params.endpoint }}"})
    operator.endpoint = "/v1/chat/completions"
    with pytest.raises(InvalidInputError, match="typed_output=True needs an output_schema"):
        run_task(operator)
    assert not server.stats()["requests"]


def test_a_kept_column_of_the_name_of_the_text(server: DevServer, out: Path) -> None:
    given = [{"text": "a", "marker": "", "output_text": "x"}]
    run_task(job(out / "plain", requests=given, keep_columns=["output_text"], output_schema=Label))
    with pytest.raises(InvalidInputError, match="keep_columns has output_text"):
        run_task(
            job(out / "typed", requests=given, keep_columns=["output_text"], output_schema=Label, **TYPED)
        )
