"""The same job at Azure OpenAI: another connection, and the deployment's name as the model."""

from __future__ import annotations

# [START on_azure]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("on_azure", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="label_places",
        openai_conn_id="azure_openai",
        endpoint="/v1/chat/completions",
        model="my-global-batch-deployment",
        input_uri=ROWS,
        id_column="iata",
        body={"messages": [{"role": "user", "content": "Which country is {name} in {city} in?"}]},
        output_uri=f"{WORK}/azure/{{{{ run_id }}}}",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END on_azure]
