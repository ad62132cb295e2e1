"""A file of request lines that is there already becomes a batch, and its results go into a directory."""

from __future__ import annotations

# [START existing_file]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)

WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("existing_file", schedule=None, tags=["openai"], doc_md=__doc__):
    batch = OpenAICreateBatchOperator(
        task_id="batch",
        endpoint="/v1/chat/completions",
        input_file=os.environ.get("EXAMPLE_REQUESTS", "include/requests.jsonl"),
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

    OpenAIDownloadBatchResultsOperator(
        task_id="results",
        batch_id="{{ ti.xcom_pull(task_ids='batch')['id'] }}",
        output_uri=f"{WORK}/results/{{{{ run_id }}}}",
    ).set_upstream(batch)
# [END existing_file]
