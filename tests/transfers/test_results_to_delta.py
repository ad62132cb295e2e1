"""Arguments of a load into a Delta table that are refused; the loads themselves are in tests/stores."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from resultskit import finished
from support import task_context

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.lakes import delta
from airflow_provider_openai_batches.transfers.openai_batch_results_to_delta import (
    OpenAIBatchResultsToDeltaOperator,
)

if TYPE_CHECKING:
    from pathlib import Path


def load(results: Any, table_uri: str = "/tmp/nowhere", **options: Any) -> Any:  # noqa: S108 - nothing is written
    operator = OpenAIBatchResultsToDeltaOperator(
        task_id="load", results=results, table_uri=table_uri, **options
    )
    return operator.execute(task_context(operator))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "upsert"}, "mode is 'upsert': it must be 'append' or 'overwrite'"),
        ({"statuses": ["done"]}, "statuses names 'done'"),
        ({"statuses": ()}, "statuses is empty"),
    ],
)
def test_bad_arguments_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        OpenAIBatchResultsToDeltaOperator(task_id="load", results="x", table_uri="y", **arguments)


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = finished(tmp_path / "out", [{"id": "a", "text": "x"}], output_format="parquet")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InvalidInputError, match=r"install airflow-provider-openai-batches\[delta\]"):
        load(uri)


def test_a_uri_with_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's, which Delta would take for a part of the bucket's name."""
    uri = finished(tmp_path / "out", [{"id": "a", "text": "x"}], output_format="parquet")
    for name in ("deltalake", "deltalake.exceptions"):
        monkeypatch.setitem(sys.modules, name, sys)
    with pytest.raises(InvalidInputError, match="names a connection, which Delta does not know"):
        load(uri, "s3://aws_default@bucket/table")


@pytest.mark.parametrize("given", [lambda: {"aws_region": "us-east-1"}, {"aws_region": "us-east-1"}])
def test_the_options_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    """A function is called when the task runs; they are no template, so no page shows them."""
    uri = finished(tmp_path / "out", [{"id": "a", "text": "x"}], output_format="parquet")
    used = []

    def write(*_: Any, storage_options: Any, **__: Any) -> Any:
        used.append(storage_options)
        return delta.Commit(rows=1)

    monkeypatch.setattr(delta, "write", write)
    load(uri, storage_options=given)
    assert used == [{"aws_region": "us-east-1"}]
    assert "storage_options" not in OpenAIBatchResultsToDeltaOperator.template_fields


def test_no_results() -> None:
    with pytest.raises(InvalidInputError, match="results is empty"):
        load([])
