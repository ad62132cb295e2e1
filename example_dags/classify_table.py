"""Label the rows of a query, and write the labels to a table of the same database."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

WORK = os.environ.get("EXAMPLE_WORK", "include")
DATABASE = "warehouse"
QUESTION = "Is {name} in {city} the airport of a capital? Answer with one of: yes, no"

with DAG("classify_table", schedule=None, tags=["openai"], doc_md=__doc__):
    labels = OpenAIBatchInferenceOperator(
        task_id="label_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        sql="SELECT iata, name, city FROM places ORDER BY iata",
        sql_conn_id=DATABASE,
        id_column="iata",
        body={"messages": [{"role": "user", "content": QUESTION}]},
        output_uri=f"{WORK}/capitals/{{{{ run_id }}}}",
        fail_on=0.01,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

    OpenAIBatchResultsToSqlOperator(
        task_id="write_back",
        results=labels.output,
        conn_id=DATABASE,
        table="labels",
        columns={"iata": "custom_id", "is_capital": "output"},
        key="iata",
        retries=3,
    )
