"""One task submits and is done; a sensor, here or in another DAG, waits for the batch."""

from __future__ import annotations

# [START sensor_handoff]
import os
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

POLL_INTERVAL = float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60"))

with DAG("sensor_handoff", schedule=None, tags=["openai"], doc_md=__doc__):
    submit = OpenAICreateBatchOperator(
        task_id="submit",
        endpoint="/v1/chat/completions",
        input_file=os.environ.get("EXAMPLE_REQUESTS", "include/requests.jsonl"),
        metadata={"handed_over_by": "{{ dag.dag_id }}"},
        wait_for_completion=False,
    )

    wait = OpenAIBatchSensor(
        task_id="wait",
        batch_id="{{ ti.xcom_pull(task_ids='submit', key='batch_id') }}",
        poll_interval=POLL_INTERVAL,
        timeout=26 * 3600,
    )

    @task
    def report(batch: dict[str, Any]) -> str:
        """How many requests succeeded."""
        counts = batch["request_counts"]
        return f"{counts['completed']} of {counts['total']} requests succeeded"

    submit >> wait
    report(wait.output)
# [END sensor_handoff]
