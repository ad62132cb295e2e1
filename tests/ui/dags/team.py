"""The DAGs that the batches of the scene belong to; ``ask`` and ``classify_table`` really make some."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

for name, task_id in (
    ("classify_reviews", "classify"),
    ("embed_products", "embed"),
    ("nightly_summaries", "summarise"),
):
    with DAG(name, schedule=None):
        EmptyOperator(task_id=task_id)

with DAG("ask", schedule=None):
    OpenAICreateBatchOperator(
        task_id="ask",
        openai_conn_id="live",
        endpoint="/v1/chat/completions",
        input_file=str(Path(os.environ["UI_WORK"]) / "requests.jsonl"),
        poll_interval=1,
    )

with DAG("classify_table", schedule=None):
    OpenAIBatchInferenceOperator(
        task_id="classify",
        openai_conn_id="jobs",
        endpoint="/v1/chat/completions",
        requests=[
            {
                "model": "gpt-5-mini",
                "messages": [{"role": "user", "content": f"Is review {number} friendly? secret-{number}"}],
                "max_completion_tokens": 50,
            }
            for number in range(6)
        ],
        output_uri=os.environ["UI_OUTPUT"] + "/{{ run_id }}",
        max_requests_per_batch=2,
        max_active_batches=2,
        poll_interval=1,
        retries=2,
    )
