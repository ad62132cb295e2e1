"""The same job through a gateway, or at a server of your own: only the connection says so."""

from __future__ import annotations

# [START through_a_gateway]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("through_a_gateway", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="label_places",
        openai_conn_id="gateway",
        endpoint="/v1/chat/completions",
        model="my-model",
        input_uri=ROWS,
        id_column="iata",
        body={
            "messages": [{"role": "user", "content": "Which country is {name} in {city} in?"}],
            "max_completion_tokens": 50,
        },
        output_uri=f"{WORK}/gateway/{{{{ run_id }}}}",
        max_cost=5.0,  # by the prices of the connection
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END through_a_gateway]
