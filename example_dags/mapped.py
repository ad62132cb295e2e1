"""One mapped task for each file: each task waits for its own batch, and a retry resumes only that one."""

from __future__ import annotations

# [START mapped]
import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)

WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("mapped", schedule=None, tags=["openai"], doc_md=__doc__):

    @task
    def find_files() -> list[str]:
        """The files that are there today."""
        return sorted(str(path) for path in Path(WORK).glob("requests*.jsonl"))

    @task
    def ids(batches: list[dict[str, Any]]) -> list[str]:
        """The ids of all batches."""
        return [batch["id"] for batch in batches]

    batches = OpenAICreateBatchOperator.partial(
        task_id="batches",
        endpoint="/v1/chat/completions",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=2,
    ).expand(input_file=find_files())

    OpenAIDownloadBatchResultsOperator.partial(
        task_id="results",
        output_uri=f"{WORK}/results",
    ).expand(batch_id=ids(batches.output))
# [END mapped]
