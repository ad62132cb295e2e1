"""A job that never costs more than it may: it is estimated before it starts, and watched while it runs."""

from __future__ import annotations

# [START within_a_budget]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("within_a_budget", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="describe_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        input_uri=ROWS,
        id_column="iata",
        body={
            "messages": [{"role": "user", "content": "Describe {name} in {city} in one sentence."}],
            # Bounds an answer, so that max_cost can be checked before anything is sent.
            "max_completion_tokens": 200,
        },
        output_uri=f"{WORK}/budget/{{{{ run_id }}}}",
        canary=5,
        max_cost=25.0,  # US dollars, over all tries
        max_requests=100_000,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END within_a_budget]
