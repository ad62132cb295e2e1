"""One batch for each run, waited for in the triggerer until somebody intervenes."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

with DAG("live_kills", schedule=None):
    OpenAICreateBatchOperator(
        task_id="batch",
        endpoint="/v1/chat/completions",
        input_file=f"{os.environ['LIVE_WORK']}/kills.jsonl",
        poll_interval=0.5,
    )
