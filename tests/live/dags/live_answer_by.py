"""Jobs whose rows are asked live: once their time is up, or from the first one on."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WORK = os.environ["LIVE_WORK"]
JOB: dict[str, Any] = {
    "task_id": "ask",
    "endpoint": "/v1/chat/completions",
    "model": "gpt-5-mini",
    "body": {"messages": [{"role": "user", "content": "{text}"}]},
    "input_uri": f"{WORK}/late/{{{{ ti.dag_id }}}}.jsonl",
    "output_uri": f"{WORK}/late/{{{{ ti.dag_id }}}}/{{{{ run_id }}}}",
    "id_column": "key",
    "poll_interval": 1,
    "retries": 3,
    "retry_delay": timedelta(seconds=1),
}

with DAG("live_answer_by", schedule=None):
    OpenAIBatchInferenceOperator(answer_by=8, then="live", max_requests_per_batch=40, **JOB)

with DAG("live_at_once", schedule=None):
    OpenAIBatchInferenceOperator(mode="live", **JOB)
