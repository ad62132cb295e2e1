"""Ask about each row of a table, with the results in a store, and write the answers into another table."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import msgspec
from airflow.providers.common.compat.sdk import BaseHook
from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WAREHOUSE = "warehouse"
QUESTION = "What is this review about?\nReview {id}: {review}"

with DAG(
    "table_to_table",
    schedule=None,
    default_args={"retries": 20, "retry_delay": timedelta(seconds=2)},
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

    @task
    def load(summary: dict[str, Any]) -> int:
        """Load the answers into the table in one transaction, and return how many there are."""
        database = BaseHook.get_hook(WAREHOUSE)
        directory = ObjectStoragePath(summary["output_uri"])
        loaded = 0
        with database.get_conn() as connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE answers")
            with cursor.copy("COPY answers (id, answer) FROM STDIN") as copy:
                for part in summary["parts"]:
                    with (directory / part).open("rb") as lines:
                        for line in lines:
                            result = msgspec.json.decode(line)
                            copy.write_row((result["custom_id"], result["output"]))
                            loaded += 1
        return loaded

    load(asked.output)
