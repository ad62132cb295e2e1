"""Mapped tasks: a directory for each instance, and a refusal without it, before anything is sent."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow import __version__
from airflow.sdk import DAG, task_group
from inferencekit import job, results, rows
from support import ENDPOINT, run_task, task_context

from airflow_provider_openai_batches.decorators.openai_batch import openai_batch_task
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.mapped import refuse_what_instances_share
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from dagkit import DagRuns

    from airflow_provider_openai_batches.devserver import DevServer

CHAT: dict[str, Any] = {"task_id": "t", "endpoint": ENDPOINT, "model": "m"}
ONE = "mapped, and output_uri=.* is one directory for all its instances"


def instance(output_uri: Any, expand: dict[str, Any] | None = None, map_index: int = 0, **more: Any) -> Any:
    """An instance of a mapped task, and its context, as Airflow makes them."""
    expand = expand or {"input_uri": ["a.jsonl", "b.jsonl"]}
    given = {**CHAT, "output_uri": output_uri, **more}
    partial = {name: value for name, value in given.items() if name not in expand}
    with DAG("d", schedule=None) as dag:
        OpenAIBatchInferenceOperator.partial(**partial).expand(**expand)
    mapped: Any = dag.task_dict["t"]
    operator = mapped.unmap({name: values[map_index] for name, values in expand.items()})
    return operator, task_context(operator, map_index=map_index)


@pytest.mark.parametrize(
    "output_uri",
    [
        "s3://bucket/labels",
        "s3://bucket/{{ run_id }}",
        "s3://bucket/{{ dag_run.run_id }}/{{ ds }}/{{ params.name }}",
        "s3://bucket/{% if ds %}a{% endif %}",
        Path("results"),
        as_path("file:///results"),
    ],
)
def test_one_directory_for_all_is_refused_in_the_first_instance_too(output_uri: Any) -> None:
    operator, context = instance(output_uri)
    with pytest.raises(InvalidInputError, match=ONE) as refusal:
        refuse_what_instances_share(operator, context)
    assert "/{{ ti.map_index }}', or name output_uri in expand()" in str(refusal.value)


@pytest.mark.parametrize(
    "output_uri",
    [
        "s3://bucket/{{ run_id }}/{{ ti.map_index }}",
        "s3://bucket/{{ task_instance.map_index }}",
        "s3://bucket/{{ task.input_uri }}",
        "s3://bucket/{{ my_own_macro() }}",
        "s3://bucket/{{ macros.uuid.uuid4() }}",
        "s3://bucket/{{ odd",
        as_path("file:///results/{{ ti.map_index }}"),
        lambda **_: "s3://bucket/anything",
    ],
)
def test_what_may_differ_is_left_to_the_claims(output_uri: Any) -> None:
    refuse_what_instances_share(*instance(output_uri))


def test_directories_that_are_expanded() -> None:
    expand = {"input_uri": ["a.jsonl", "b.jsonl"], "output_uri": ["s3://bucket/a", "s3://bucket/b"]}
    refuse_what_instances_share(*instance(None, expand))


def test_tasks_that_are_not_mapped() -> None:
    with DAG("d", schedule=None):
        operator = job("s3://bucket/labels", requests=rows(1))
    refuse_what_instances_share(operator, task_context(operator))


def test_a_table_that_each_instance_would_empty() -> None:
    mine = "s3://bucket/{{ ti.map_index }}"
    table: dict[str, Any] = {
        "output_table": "labels",
        "output_conn_id": "db",
        "output_mode": "replace",
        "output_key": None,
    }
    operator, context = instance(mine, **table)
    with pytest.raises(InvalidInputError, match="each of its instances would empty output_table='labels'"):
        refuse_what_instances_share(operator, context)
    refuse_what_instances_share(*instance(mine, **{**table, "output_table": "labels_{{ ti.map_index }}"}))
    refuse_what_instances_share(*instance(mine, **{**table, "output_mode": "append"}))


@pytest.mark.parametrize("output_uri", ["{out}", "{out}/{{{{ ti.map_index }}}}"])
def test_a_task_in_a_mapped_group(server: DevServer, out: Path, output_uri: str) -> None:
    """Its operator is not mapped itself."""
    uri = output_uri.format(out=out)
    with DAG("d", schedule=None) as dag:

        @task_group
        def each(name: str) -> None:
            job(uri, requests=rows(2), poll_interval=0.05)

        each.expand(name=["a", "b"])
    operator: Any = dag.task_dict["each.t"].prepare_for_execution()
    context = task_context(operator, map_index=1)
    operator.render_template_fields({**context, "run_id": "r"})
    if output_uri == "{out}":
        with pytest.raises(InvalidInputError, match=ONE):
            run_task(operator, context)
        assert not out.exists()
        assert not server.stats()["requests"].get("upload_file")
    else:
        refuse_what_instances_share(operator, context)


def test_a_decorated_function() -> None:
    with DAG("d", schedule=None) as dag:
        made: Any = openai_batch_task(lambda name: [name], **{**CHAT, "output_uri": "s3://bucket/labels"})
        made.expand(name=["a", "b"])
    mapped: Any = next(iter(dag.task_dict.values()))
    assert mapped.partial_kwargs["output_uri"] == "s3://bucket/labels"
    operator = mapped.unmap({"op_kwargs": {"name": "a"}})
    with pytest.raises(InvalidInputError, match=ONE):
        refuse_what_instances_share(operator, task_context(operator, map_index=0))


PROGRAM = """
from airflow.sdk import DAG, task
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

with DAG("five_files", schedule=None):

    @task
    def files():
        return ["FOLDER/%d.jsonl" % number for number in range(5)]

    OpenAIBatchInferenceOperator.partial(
        task_id="ask",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        body={"messages": [{"role": "user", "content": "{text}"}]},
        id_column="id",
        output_uri="OUT",
        output_table="labels",
        output_conn_id="warehouse",
        output_columns={"id": "custom_id", "label": "output"},
        output_key="id",
        poll_interval=0.2,
    ).expand(input_uri=files())
"""


@pytest.mark.parametrize("ending", ["/{{ ti.map_index }}", ""])
def test_five_files_in_a_real_dag(
    server: DevServer, dag_runs: DagRuns, airflow_database: dict[str, str], tmp_path: Path, ending: str
) -> None:
    """With the template all of them arrive, in one table; without it nothing is sent."""
    for number in range(5):
        lines = [{"id": f"{number}-{row}", "text": f"row {row}"} for row in range(3)]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    program = PROGRAM.replace("FOLDER", str(tmp_path)).replace("OUT", f"{out}/{{{{ run_id }}}}{ending}")
    (tmp_path / "dag.py").write_text(program)
    environment = {
        **airflow_database,
        **os.environ,
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/warehouse.db"}),
    }
    states, said = dag_runs.run(tmp_path / "dag.py", environment)
    stats = server.stats()
    if ending:
        assert states["ask"] == "success", said[-3000:]
        assert len([row for part in out.glob("*/*") for row in results(part)]) == 15
        with closing(sqlite3.connect(tmp_path / "warehouse.db")) as connection:
            assert connection.execute("SELECT COUNT(*) FROM labels").fetchone() == (15,)
        assert stats["paid_more_than_once"] == 0
        assert stats["requests"]["create_batch"] == 5
    else:
        assert states["ask"] == "failed", said[-3000:]
        assert not stats["requests"].get("upload_file")
        assert not out.exists()
        if not __version__.startswith("3.0."):  # dag.test does not show there why a task fails
            assert "{{ run_id }}/{{ ti.map_index }}', or name output_uri in expand()" in said
