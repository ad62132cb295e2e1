"""The buttons of tasks as Airflow's own API gives them to its UI, and the views that lead to the page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from airflow.sdk import DAG
from support import ENDPOINT, FakeTaskInstance

from airflow_provider_openai_batches import links
from airflow_provider_openai_batches.compat.pages import has_pages
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator
from airflow_provider_openai_batches.plugin import OpenAIBatchesPlugin

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

DAG_ID, RUN_ID = "with_links", "manual__2026-11-26T10:54:23+00:00"
PAGE, CONSOLE = "Job on the OpenAI Batches page", "OpenAI batch"


def some_dag() -> Any:
    asked: dict[str, Any] = {"endpoint": ENDPOINT, "model": "m"}
    with DAG(DAG_ID, schedule=None) as dag:
        OpenAICreateBatchOperator(task_id="create", endpoint=ENDPOINT, input_file_id="f")
        OpenAIBatchInferenceOperator.partial(
            task_id="ask", output_uri="x/{{ ti.map_index }}", **asked
        ).expand(input_uri=["a", "b"])
    return dag


@pytest.fixture(scope="module")
def dag(_database: None) -> Any:
    """A DAG in the metadata database, with a run whose tasks are deferred."""
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    made = some_dag()
    from_dag = getattr(LazyDeserializedDAG, "from_dag", lambda dag: dag)  # Airflow 3.0 takes the DAG itself
    with create_session() as session:
        session.add(DagModel(dag_id=made.dag_id, bundle_name="dags", is_paused=False))  # type: ignore[no-untyped-call]
        session.flush()
        SerializedDagModel.write_dag(from_dag(made), bundle_name="dags", session=session)
        session.flush()
        stored = SerializedDagModel.get(made.dag_id, session=session)
        assert stored is not None
        stored.dag.create_dagrun(
            run_id=RUN_ID,
            run_after=datetime.now(UTC),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.UI,
            state=DagRunState.RUNNING,
            session=session,
        )
    return made


def store(dag: Any, task_id: str, map_index: int = -1) -> None:
    """What a task stores when its job begins, in the metadata database."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    ti = FakeTaskInstance(task_id, 1, map_index, RUN_ID)
    ti.dag_id = dag.dag_id
    context: Any = {"ti": ti}
    links.store_job_link(context, "my_conn")
    with create_session() as session:
        for key, value in ti.xcoms.items():
            XComModel.set(
                key,
                value,
                dag_id=ti.dag_id,
                task_id=task_id,
                run_id=RUN_ID,
                map_index=map_index,
                session=session,
            )


def shown(client: httpx.Client, dag: Any, task_id: str, map_index: int = -1) -> dict[str, str | None]:
    path = f"/api/v2/dags/{dag.dag_id}/dagRuns/{quote(RUN_ID)}/taskInstances/{task_id}/links"
    answer = client.get(path, params={"map_index": map_index})
    assert answer.status_code == 200, answer.text
    found: dict[str, str | None] = answer.json()["extra_links"]
    return found


@pytest.fixture
def as_viewer(login: Callable[[str], httpx.Client]) -> httpx.Client:
    return login("viewer")


def test_the_buttons_of_a_task(as_viewer: httpx.Client, dag: Any) -> None:
    """None before the task has a batch; then the one to the page, also without a console at the service."""
    assert shown(as_viewer, dag, "create") == {CONSOLE: None, PAGE: None}
    store(dag, "create")
    run_id = "manual__2026-11-26T10%3A54%3A23%2B00%3A00"
    address = f"plugin/openai-batches?conn_id=my_conn&dag_id=with_links&run_id={run_id}&task_id=create"
    assert shown(as_viewer, dag, "create") == {CONSOLE: None, PAGE: address if has_pages() else None}


def test_the_buttons_of_a_mapped_task(as_viewer: httpx.Client, dag: Any) -> None:
    """Each instance has its own."""
    for index in (0, 1):
        store(dag, "ask", index)
        address = shown(as_viewer, dag, "ask", index)[PAGE]
        assert (address or "").endswith(f"&task_id=ask&map_index={index}") == has_pages()


@pytest.mark.skipif(not has_pages(), reason="Airflow 3.0 has no page")
def test_the_views_are_what_airflow_takes(as_viewer: httpx.Client) -> None:
    """Airflow leaves out a view that it does not understand; each route is there once."""
    (ours,) = (
        plugin
        for plugin in as_viewer.get("/api/v2/plugins", params={"limit": 100}).json()["plugins"]
        if plugin["name"] == OpenAIBatchesPlugin.name
    )
    found = {view["destination"]: (view["url_route"], view["href"]) for view in ours["external_views"]}
    assert found == {
        "nav": ("openai-batches", "openai-batches/"),
        "dag": ("openai-batches-dag", "openai-batches/?dag_id={DAG_ID}"),
        "dag_run": ("openai-batches-run", "openai-batches/?dag_id={DAG_ID}&run_id={RUN_ID}"),
    }
