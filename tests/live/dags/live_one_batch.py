"""What the live tests run: one batch, waited for in the triggerer."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)

WORK = os.environ["LIVE_WORK"]

with DAG("live_one_batch", schedule=None):
    batch = OpenAICreateBatchOperator(
        task_id="batch",
        endpoint="/v1/chat/completions",
        input_file=f"{WORK}/requests.jsonl",
        poll_interval=2,
    )
    OpenAIDownloadBatchResultsOperator(
        task_id="results",
        batch_id="{{ ti.xcom_pull(task_ids='batch')['id'] }}",
        output_uri=f"{WORK}/results",
    ).set_upstream(batch)
