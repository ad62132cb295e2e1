"""Rows in, results out, in one task: whom does each airport serve?"""

from __future__ import annotations

# [START quickstart]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")
QUESTION = (
    "Whom does the airport {name} in {city} mostly serve? "
    "Answer with one of: a big city, a small town, holiday makers, the military"
)

with DAG("quickstart", schedule=None, tags=["openai"], doc_md=__doc__) as dag:
    OpenAIBatchInferenceOperator(
        task_id="label_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        input_uri=ROWS,
        id_column="iata",
        keep_columns=["name", "city"],
        body={"messages": [{"role": "user", "content": QUESTION}]},
        output_uri=f"{WORK}/labels/{{{{ run_id }}}}",
        max_requests_per_batch=1_000,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END quickstart]
