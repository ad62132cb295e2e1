"""Ask about each row of a table, with the results in a store, and write the answers into another table."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

WAREHOUSE = "warehouse"
QUESTION = "What is this review about?\nReview {id}: {review}"

with DAG(
    "table_to_table",
    schedule=None,
    default_args={"retries": 60, "retry_delay": timedelta(seconds=2)},
    doc_md=__doc__,
) as dag:
    asked = OpenAIBatchInferenceOperator(
        task_id="ask",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        sql="SELECT id, review FROM reviews ORDER BY id",
        sql_conn_id=WAREHOUSE,
        id_column="id",
        body={"messages": [{"role": "user", "content": QUESTION}]},
        output_uri="s3://aws_default@results/{{ run_id }}",
        max_requests_per_batch=int(os.environ["CLUSTER_REQUESTS_PER_BATCH"]),
        fail_on="any",
        poll_interval=2.0,
    )

    OpenAIBatchResultsToSqlOperator(
        task_id="load",
        results=asked.output,
        conn_id=WAREHOUSE,
        table="answers",
        columns={"id": "custom_id", "answer": "output"},
        key="id",
        mode="replace",
    )
