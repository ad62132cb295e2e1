"""The button that leads to a task's job on the page: when it is there, and where it leads."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import DAG
from inferencekit import job, rows
from support import ENDPOINT, as_stored, request_lines, run_task, task_context

from airflow_provider_openai_batches import links
from airflow_provider_openai_batches.decorators.openai_batch import openai_batch_task
from airflow_provider_openai_batches.exceptions import APIError, BatchTimeout
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.inference_faults import UnusableInputError
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICancelBatchOperator,
    OpenAICreateBatchOperator,
)
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

KEY = "_link_OpenAIBatchJobLink"
RUN = "manual__2026-11-26T10:54:23+00:00"
QUOTED = "manual__2026-11-26T10%3A54%3A23%2B00%3A00"
CONN = "openai_batches_default"
OWN = f"plugin/openai-batches?conn_id={CONN}&dag_id=dag&run_id={QUOTED}&task_id=t"
MADE_BY = {"airflow_dag_id": "other dag", "airflow_run_id": RUN, "airflow_task_id": "ask"}
OTHERS = f"plugin/openai-batches?conn_id={CONN}&dag_id=other%20dag&run_id={QUOTED}&task_id=ask"


@pytest.fixture(autouse=True)
def _has_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Airflow 3.1 and later."""
    monkeypatch.setattr(links, "has_pages", lambda: True)


def uploaded() -> str:
    return OpenAIBatchesHook().upload_file(io.BytesIO(request_lines()), "in.jsonl").id


def create(**kwargs: Any) -> Any:
    given: dict[str, Any] = {"task_id": "t", "endpoint": ENDPOINT, "input_file_id": uploaded()}
    return OpenAICreateBatchOperator(**given, poll_interval=0.1, **kwargs)


def others(metadata: dict[str, str] | None) -> str:
    """A batch that another task submitted, or nobody who says so."""
    return OpenAIBatchesHook().create_batch(uploaded(), ENDPOINT, metadata=metadata).id


@pytest.mark.parametrize("map_index", [-1, 0, 3])
def test_a_created_batch(server: DevServer, map_index: int) -> None:
    """It is there when the task defers, and the service has no console."""
    server.settings(freeze=True)
    context = task_context(operator := create(), map_index=map_index, run_id=RUN)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    assert context["ti"].xcoms[KEY] == OWN + ("" if map_index < 0 else f"&map_index={map_index}")
    assert "_link_OpenAIBatchLink" not in context["ti"].xcoms


def test_a_task_that_fails(server: DevServer) -> None:
    server.settings(freeze=True)
    context = task_context(operator := create(batch_timeout=0.2), run_id=RUN)
    with pytest.raises(BatchTimeout):
        run_task(operator, context)
    assert context["ti"].xcoms[KEY] == OWN


def test_a_batch_that_is_not_created(server: DevServer) -> None:
    """There is nothing to show."""
    operator = create()
    server.faults([{"operation": "create_batch", "action": "status", "status": 400}])
    context = task_context(operator)
    with pytest.raises(APIError):
        operator.execute(context)
    assert context["ti"].xcoms == {}


@pytest.mark.parametrize("map_index", [-1, 2])
def test_a_job(server: DevServer, tmp_path: Path, map_index: int) -> None:
    """Before its first batch, and still when it is complete."""
    server.settings(freeze=True)
    context = task_context(operator := job(tmp_path, requests=rows(2)), map_index=map_index, run_id=RUN)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    address = OWN + ("" if map_index < 0 else f"&map_index={map_index}")
    assert context["ti"].xcoms[KEY] == address


def test_a_later_try_of_a_complete_job(server: DevServer, tmp_path: Path) -> None:
    """Airflow has deleted what the earlier try stored, and the page still shows its batches."""
    operator = job(tmp_path, requests=rows(2))
    run_task(operator, task_context(operator, run_id=RUN))
    context = task_context(operator, run_id=RUN, try_number=2)
    run_task(operator, context)
    assert context["ti"].xcoms[KEY] == OWN


@pytest.mark.parametrize("given", [{"dry_run": True}, {"requests": [{"text": 1}], "body": {"input": "{x}"}}])
def test_a_job_that_sends_nothing(server: DevServer, tmp_path: Path, given: dict[str, Any]) -> None:
    operator = job(tmp_path, **{"requests": rows(2), **given})
    context = task_context(operator)
    if "body" in given:
        with pytest.raises(UnusableInputError):
            run_task(operator, context)
    else:
        run_task(operator, context)
    assert KEY not in context["ti"].xcoms


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_sensor(server: DevServer, deferrable: bool) -> None:
    """It leads to the job of the task that made the batch, which is another one."""
    batch_id = others(MADE_BY)
    operator = OpenAIBatchSensor(task_id="s", batch_id=batch_id, poll_interval=0.1, deferrable=deferrable)
    context = task_context(operator)
    run_task(operator, context)
    assert context["ti"].xcoms[KEY] == OTHERS


def test_a_sensor_for_a_batch_from_outside(server: DevServer) -> None:
    batch_id = others(None)
    operator = OpenAIBatchSensor(task_id="s", batch_id=batch_id, poll_interval=0.1)
    context = task_context(operator)
    run_task(operator, context)
    assert context["ti"].xcoms[KEY] == f"plugin/openai-batches?conn_id={CONN}&text={batch_id}"


def test_a_sensor_while_the_service_is_away(server: DevServer) -> None:
    """It leads to the batch at first, and to its job as soon as that is known."""
    batch_id = others({**MADE_BY, "airflow_map_index": "7"})
    server.faults([{"operation": "retrieve_batch", "action": "status", "status": 503, "times": 6}])
    operator = OpenAIBatchSensor(task_id="s", batch_id=batch_id, poll_interval=0.1)
    context = task_context(operator)
    operator.hook._sleep = lambda _: None  # type: ignore[attr-defined]
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    assert context["ti"].xcoms[KEY] == f"plugin/openai-batches?conn_id={CONN}&text={batch_id}"
    server.clear_faults()
    run_task(operator, context)
    assert context["ti"].xcoms[KEY] == f"{OTHERS}&map_index=7"


def test_a_cancelled_batch(server: DevServer) -> None:
    context = task_context(operator := OpenAICancelBatchOperator(task_id="c", batch_id=others(MADE_BY)))
    operator.execute(context)
    assert context["ti"].xcoms[KEY] == OTHERS


@pytest.mark.parametrize("kind", ["create", "cancel", "sensor", "job"])
def test_a_button_that_cannot_be_stored(
    server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The task goes on: it may have a batch, which would run on for nobody. A worker's server may be away."""
    connection = json.loads(server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"])
    connection["extra"] = {"console_url": "https://console.example/batches/"}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", json.dumps(connection))
    if kind in {"cancel", "sensor"}:
        batch_id = others(MADE_BY)
    operators: dict[str, Callable[[], Any]] = {
        "create": create,
        "cancel": lambda: OpenAICancelBatchOperator(task_id="t", batch_id=batch_id),
        "sensor": lambda: OpenAIBatchSensor(task_id="t", batch_id=batch_id, poll_interval=0.1),
        "job": lambda: job(tmp_path, requests=rows(2)),
    }
    operator = operators[kind]()
    context = task_context(operator, run_id=RUN)
    store, refused = context["ti"].xcom_push, []

    def push(key: str, value: Any) -> None:
        if key.startswith("_link_"):
            refused.append(key)
            raise RuntimeError("API_SERVER_ERROR: the server is away")
        store(key, value)

    context["ti"].xcom_push = push
    run_task(operator, context)
    assert set(refused) == {KEY, *(["_link_OpenAIBatchLink"] if kind in {"create", "sensor"} else [])}


def test_an_airflow_without_the_page(
    server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A button would lead nowhere, so there is none; the one to the service's console stays."""
    monkeypatch.setattr(links, "has_pages", lambda: False)
    connection = json.loads(server.environment["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"])
    connection["extra"] = {"console_url": "https://console.example/batches/"}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT", json.dumps(connection))
    for operator in (create(), job(tmp_path, requests=rows(1))):
        context = task_context(operator)
        run_task(operator, context)
        assert KEY not in context["ti"].xcoms
        assert ("_link_OpenAIBatchLink" in context["ti"].xcoms) == isinstance(
            operator, OpenAICreateBatchOperator
        )


def test_what_airflow_knows_of_the_buttons(tmp_path: Path) -> None:
    """Also of mapped and decorated tasks; the names stand in serialized DAGs."""

    def prompts() -> list[str]:
        return []

    asked: dict[str, Any] = {"endpoint": ENDPOINT, "model": "m"}
    with DAG("d", schedule=None) as dag:
        create_task: Any = OpenAICreateBatchOperator(task_id="create", endpoint=ENDPOINT, input_file_id="f")
        OpenAIBatchSensor(task_id="sensor", batch_id="b")
        OpenAICancelBatchOperator(task_id="cancel", batch_id="b")
        job(tmp_path, requests=rows(1), task_id="job")
        OpenAIBatchInferenceOperator.partial(
            task_id="mapped", output_uri="x/{{ ti.map_index }}", **asked
        ).expand(input_uri=["a", "b"])
        decorated: Any = openai_batch_task(prompts, output_uri=str(tmp_path), **asked)
        decorated()
    stored = {task["__var"]["task_id"]: task["__var"] for task in json.loads(as_stored(dag))["dag"]["tasks"]}
    console, page = {"OpenAI batch": "_link_OpenAIBatchLink"}, {"Job on the OpenAI Batches page": KEY}
    found = {task_id: task["_operator_extra_links"] for task_id, task in stored.items()}
    assert found == {
        "create": {**console, **page},
        "sensor": {**console, **page},
        "cancel": page,
        "job": page,
        "mapped": page,
        "prompts": page,
    }
    assert {link.name for link in create_task.operator_extra_links} == {*console, *page}
