"""Each day only rows that are new or have changed are asked about; the others get the answer they had."""

from __future__ import annotations

# [START only_changes]
import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("only_changes", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="label_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        sql="SELECT iata, name, city FROM places ORDER BY iata",
        sql_conn_id="warehouse",
        id_column="iata",
        body={"messages": [{"role": "user", "content": "Which country is {name} in {city} in?"}]},
        output_uri=f"{WORK}/countries/{{{{ run_id }}}}",
        # All runs share this directory; answers that are older than this are asked for anew.
        answers_uri=f"{WORK}/answers",
        answers_max_age=timedelta(days=90),
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END only_changes]
