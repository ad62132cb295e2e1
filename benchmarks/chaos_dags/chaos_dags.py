"""A DAG for each folder of input files: one plain task, and a mapped one for all the other files."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

ENDPOINT = "/v1/chat/completions"

for folder in sorted(Path(os.environ["CHAOS_INPUTS"]).iterdir()):
    first, *others = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    with DAG(
        folder.name,
        schedule=None,
        default_args={
            "poll_interval": 2.0,
            "retries": 200,  # a scheduler that comes back gives all tasks that it finds queued a new try
            "retry_delay": timedelta(seconds=2),
        },
    ):
        OpenAICreateBatchOperator(task_id="single", endpoint=ENDPOINT, input_file=first)
        OpenAICreateBatchOperator.partial(task_id="mapped", endpoint=ENDPOINT).expand(input_file=others)
