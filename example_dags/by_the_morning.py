"""
Every row has its answer by the morning: in a batch at half the price, or live if a batch takes too long.

Five rows are asked live first, so that a bad prompt is noticed before the rest is paid for. Six hours after
the first try, the rows without an answer are asked live too.
"""

from __future__ import annotations

# [START by_the_morning]
import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("by_the_morning", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="describe_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        input_uri=ROWS,
        id_column="iata",
        body={"messages": [{"role": "user", "content": "Describe {name} in {city} in one sentence."}]},
        output_uri=f"{WORK}/descriptions/{{{{ run_id }}}}",
        canary=5,
        answer_by=timedelta(hours=6),
        then="live",
        fail_on=0.01,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END by_the_morning]
