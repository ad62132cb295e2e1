"""What the asset events of a task say that has outlets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors
from inferencekit import again, job, rows
from support import ENDPOINT, fresh, request_lines, run_task, task_context

from airflow_provider_openai_batches.decorators.openai_batch import openai_batch_task
from airflow_provider_openai_batches.observability.assets import report
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

ANSWERS, OTHERS = Asset("answers"), Asset("others", uri="s3://bucket/others")


def no_events() -> Any:
    """What a task's context has before the task has run."""
    return OutletEventAccessors()


def events_of(operator: Any, try_number: int = 1) -> Any:
    """Run a task to its end, and return what it gives to Airflow for its outlets."""
    events = no_events()
    context = {**task_context(operator, try_number=try_number), "outlet_events": events}
    run_task(operator, context)
    return events


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))


def test_each_outlet_learns_what_came_out(server: DevServer, tmp_path: Path) -> None:
    """Rows, counts, cost and place; neither the prompts nor anything else of the summary."""
    operator = job(tmp_path / "out", requests=rows(3, {1: "fail"}), outlets=[ANSWERS, OTHERS])
    events = events_of(operator)
    extra = events[ANSWERS].extra
    assert extra == events[OTHERS].extra
    assert set(extra) == {"output_uri", "rows", "counts", "cost"}
    assert extra["output_uri"] == str(tmp_path / "out")
    assert extra["rows"] == sum(extra["counts"].values()) == 3
    assert set(extra["cost"]) == {"usd", "is_known"}
    assert "row 1" not in json.dumps(extra)


def test_a_later_try_that_finds_the_job_complete_says_the_same(server: DevServer, tmp_path: Path) -> None:
    operator = job(tmp_path / "out", requests=rows(3), outlets=[ANSWERS])
    first = events_of(operator)[ANSWERS].extra
    asked = dict(server.stats()["requests"])
    assert events_of(fresh(operator), try_number=2)[ANSWERS].extra == first
    assert server.stats()["requests"].get("create_batch") == asked["create_batch"]


def test_what_the_author_has_set_stays(server: DevServer, tmp_path: Path) -> None:
    operator = job(tmp_path / "out", requests=rows(2), outlets=[ANSWERS])
    events = no_events()
    events[ANSWERS].extra = {"rows": "two", "owner": "me"}
    run_task(operator, {**task_context(operator), "outlet_events": events})
    assert events[ANSWERS].extra["rows"] == "two"
    assert events[ANSWERS].extra["owner"] == "me"
    assert events[ANSWERS].extra["counts"]["succeeded"] == 2


def test_an_alias_becomes_the_directory_of_the_results(server: DevServer, tmp_path: Path) -> None:
    alias = AssetAlias("labels")
    events = events_of(job(f"file://{tmp_path}/out", requests=rows(2), outlets=[alias]))
    (event,) = events[alias].asset_alias_events
    assert event.dest_asset_key.uri.endswith(f"{tmp_path}/out")
    assert event.extra["rows"] == 2


def test_the_table_is_named(server: DevServer, tmp_path: Path, database: None) -> None:
    """By the task that fills it, and by one that only loads."""
    table: dict[str, Any] = {
        "output_table": "labels",
        "output_conn_id": "warehouse",
        "output_columns": {"answer": "output"},
    }
    operator = job(
        tmp_path / "out", requests=rows(2), outlets=[ANSWERS], output_mode="append", output_key=None, **table
    )
    assert events_of(operator)[ANSWERS].extra["table"] == "labels"
    load = OpenAIBatchResultsToSqlOperator(
        task_id="load", results=str(tmp_path / "out"), conn_id="warehouse", table="more", outlets=[OTHERS]
    )
    assert events_of(load)[OTHERS].extra == {"table": "more", "rows": 2, "loaded_before": False}


def test_a_dry_run_says_that_it_is_one(server: DevServer, tmp_path: Path) -> None:
    """Airflow makes the event all the same."""
    operator = job(tmp_path / "out", requests=rows(2), outlets=[ANSWERS], dry_run=True)
    extra = {"dry_run": True, "output_uri": str(tmp_path / "out"), "rows": 2}
    assert events_of(operator)[ANSWERS].extra == extra


def test_the_decorator_has_outlets_too(server: DevServer, tmp_path: Path) -> None:
    def prompts() -> list[str]:
        return ["a", "b"]

    with DAG("d", schedule=None):
        task: Any = openai_batch_task(
            prompts,
            endpoint=ENDPOINT,
            model="m",
            output_uri=str(tmp_path / "out"),
            poll_interval=0.05,
            outlets=[ANSWERS],
        )
        operator = task().operator
    assert events_of(operator)[ANSWERS].extra["counts"]["succeeded"] == 2


def test_a_download_says_which_batch_and_which_files(server: DevServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(request_lines())
    create = OpenAICreateBatchOperator(
        task_id="c", endpoint=ENDPOINT, input_file=str(tmp_path / "in.jsonl"), poll_interval=0.1
    )
    batch = run_task(create)
    download = OpenAIDownloadBatchResultsOperator(
        task_id="d", batch_id=batch["id"], output_uri=str(tmp_path / "out"), outlets=[ANSWERS]
    )
    extra = events_of(download)[ANSWERS].extra
    assert (extra["batch_id"], extra["status"]) == (batch["id"], "completed")
    assert extra["output"]["uri"] == f"{tmp_path}/out/{batch['id']}-output.jsonl"


def test_an_alias_of_a_download_takes_a_path_object(server: DevServer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(request_lines())
    batch = run_task(
        OpenAICreateBatchOperator(
            task_id="c", endpoint=ENDPOINT, input_file=str(tmp_path / "in.jsonl"), poll_interval=0.1
        )
    )
    place: Any = tmp_path / "out"
    alias = AssetAlias("files")
    download = OpenAIDownloadBatchResultsOperator(
        task_id="d", batch_id=batch["id"], output_uri=place, outlets=[alias]
    )
    (event,) = events_of(download)[alias].asset_alias_events
    assert event.dest_asset_key.uri == str(place)


@pytest.mark.parametrize("outlet", [AssetAlias("labels"), ANSWERS])
def test_no_password_of_a_uri_is_in_an_event(outlet: Any) -> None:
    """Airflow shows the names of assets, and what their events say, to everybody who may see assets."""
    events = no_events()
    place = "sftp://me:secret@host/labels"
    said = {"output_uri": place, "output": {"uri": f"{place}/a:b@c"}, "rows": 2}
    report(EmptyOperator(task_id="t", outlets=[outlet]), {"outlet_events": events}, said, place)
    event = next(iter(events[outlet].asset_alias_events), events[outlet])
    expected = {"output_uri": "sftp://host/labels", "output": {"uri": "sftp://host/labels/a:b@c"}, "rows": 2}
    assert event.extra == expected
    assert "secret" not in repr(event)


def test_without_outlets_nothing_is_asked_of_airflow(server: DevServer, tmp_path: Path) -> None:
    """The test's context has no outlet events at all."""
    operator = job(tmp_path / "out", requests=rows(1))
    assert run_task(operator)["rows"] == 1


def test_an_event_that_cannot_be_filled_in_fails_no_task(
    server: DevServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are paid for; here Airflow has no outlet events, and it is said."""
    operator = job(tmp_path / "out", requests=rows(1), outlets=[ANSWERS, "not an asset"])
    assert again(operator, try_number=1)["rows"] == 1
    assert "has no extra" in caplog.text
