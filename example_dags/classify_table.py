"""Label the rows of a query, and write the labels to a table of the same database: all in one task."""

from __future__ import annotations

# [START classify_table]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WORK = os.environ.get("EXAMPLE_WORK", "include")
DATABASE = "warehouse"
QUESTION = "Is {name} in {city} the airport of a capital? Answer with one of: yes, no"

with DAG("classify_table", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="label_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        sql="SELECT iata, name, city FROM places ORDER BY iata",
        sql_conn_id=DATABASE,
        id_column="iata",
        body={"messages": [{"role": "user", "content": QUESTION}]},
        output_uri=f"{WORK}/capitals/{{{{ run_id }}}}",
        output_table="labels",
        output_conn_id=DATABASE,
        output_columns={"iata": "custom_id", "is_capital": "output"},
        output_key="iata",
        fail_on=0.01,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END classify_table]
