"""Tasks whose deferral Airflow itself has to end, some seconds after their execution_timeout."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators import base
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

base.AIRFLOW_WAITS = timedelta(seconds=5)  # instead of five minutes

WORK, ENDPOINT = os.environ["LIVE_WORK"], "/v1/chat/completions"
CREATE: dict[str, Any] = {"endpoint": ENDPOINT, "input_file": f"{WORK}/timeouts.jsonl"}

with DAG("live_no_triggerer", schedule=None, default_args={"execution_timeout": timedelta(seconds=40)}):
    OpenAICreateBatchOperator(task_id="create", **CREATE)
    OpenAICreateBatchOperator(task_id="create_left", cancel_on_timeout=False, **CREATE)
    OpenAIBatchInferenceOperator(
        task_id="job",
        endpoint=ENDPOINT,
        model="gpt-5-mini",
        requests=["one", "two"],
        output_uri=f"{WORK}/timeouts/{{{{ ti.dag_id }}}}",
    )
    OpenAIBatchSensor(task_id="sensor", batch_id="{{ dag_run.conf['batch_id'] }}")
