"""
The steps one by one: rows become a JSONL file, the file becomes a batch, and the batch becomes results.

For most jobs, the single task in quickstart.py is simpler. This DAG shows what it does for one file.
"""

from __future__ import annotations

# [START one_batch]
import csv
import json
import os
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")
ENDPOINT = "/v1/chat/completions"

with DAG("one_batch", schedule=None, tags=["openai"], doc_md=__doc__):

    @task
    def write_requests() -> str:
        """Write one request per line, each with an id that its result will have too."""
        target = Path(WORK) / "one_batch.jsonl"
        with (
            Path(ROWS).open(newline="", encoding="utf-8") as rows,
            target.open("w", encoding="utf-8") as lines,
        ):
            for row in csv.DictReader(rows):
                prompt = f"In one word: what kind of place is {row['name']}, {row['city']}?"
                body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": prompt}]}
                line = {"custom_id": row["iata"], "method": "POST", "url": ENDPOINT, "body": body}
                lines.write(json.dumps(line) + "\n")
        return str(target)

    batch = OpenAICreateBatchOperator(
        task_id="batch",
        endpoint=ENDPOINT,
        input_file=write_requests(),
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

    OpenAIDownloadBatchResultsOperator(
        task_id="results",
        batch_id="{{ ti.xcom_pull(task_ids='batch')['id'] }}",
        output_uri=f"{WORK}/results/{{{{ run_id }}}}",
    ).set_upstream(batch)
# [END one_batch]
