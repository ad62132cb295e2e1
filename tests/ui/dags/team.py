"""The DAGs that the batches of the scene belong to; ``ask`` really makes one."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

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
