"""What holds work back: a pool, the number of a job's batches, and the token limit of an account."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

WORK = os.environ["LIVE_WORK"]
ENDPOINT = "/v1/chat/completions"
JOB: dict[str, Any] = {
    "task_id": "ask",
    "endpoint": ENDPOINT,
    "input_uri": f"{WORK}/limits.jsonl",
    "output_uri": f"{WORK}/limits/{{{{ ti.dag_id }}}}/{{{{ run_id }}}}",
    "id_column": "key",
    "max_requests_per_batch": 20,
    "poll_interval": 1,
    "retries": 3,
    "retry_delay": timedelta(seconds=1),
}


def asking(who: str) -> dict[str, Any]:
    """Each DAG asks something else, so that what is paid twice can be told."""
    return {"messages": [{"role": "user", "content": f"{who}: {{text}}"}]}


for pool in ("live_with_waits", "live_without_waits"):
    with DAG(f"{pool}_pool", schedule=None):
        OpenAICreateBatchOperator.partial(
            task_id="batch", endpoint=ENDPOINT, poll_interval=1, pool=pool
        ).expand(input_file=[f"{WORK}/limits-requests.jsonl"] * 4)

with DAG("live_one_at_a_time", schedule=None):
    OpenAIBatchInferenceOperator(model="gpt-5-mini", body=asking("One"), max_active_batches=1, **JOB)

for number in (1, 2, 3):
    with DAG(f"live_shared_limit_{number}", schedule=None):
        OpenAIBatchInferenceOperator(
            model="gpt-5-nano", openai_conn_id="live_limited", body=asking(str(number)), **JOB
        )
