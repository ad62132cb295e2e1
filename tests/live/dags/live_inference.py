"""A job of many shards, whose processes are killed on the way."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WORK = os.environ["LIVE_WORK"]

with DAG("live_inference", schedule=None):
    OpenAIBatchInferenceOperator(
        task_id="ask",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        input_uri=f"{WORK}/rows.jsonl",
        id_column="key",
        keep_columns=["text"],
        body={
            "messages": [{"role": "user", "content": "{text}"}],
            "metadata": {"devserver": "{marker}"},
        },
        output_uri=f"{WORK}/answers/{{{{ run_id }}}}",
        max_requests_per_batch=25,
        max_enqueued_tokens=10_000_000,  # a limit that is known need not be tested with a few batches first
        poll_interval=2,
        retries=5,
        retry_delay=timedelta(seconds=1),
    )
