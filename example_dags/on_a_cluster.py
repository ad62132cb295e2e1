"""From table to table on several machines: results in a store, and a bound on what is at the service."""

from __future__ import annotations

# [START on_a_cluster]
import os

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

# On a cluster, a store that all workers reach, such as s3://my_conn@bucket.
WORK = os.environ.get("EXAMPLE_WORK", "include")

with DAG("on_a_cluster", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="label_places",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        sql="SELECT iata, name, city FROM places ORDER BY iata",
        sql_conn_id="warehouse",
        id_column="iata",
        body={"messages": [{"role": "user", "content": "On which continent is {city}? One word."}]},
        output_uri=f"{WORK}/continents/{{{{ run_id }}}}",
        output_table="continents",
        output_conn_id="warehouse",
        output_columns={"iata": "custom_id", "continent": "output"},
        output_key="iata",
        # A pool with deferred slots bounds the tasks, and this the batches of each of them.
        pool=os.environ.get("EXAMPLE_POOL", "default_pool"),
        max_active_batches=5,
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )
# [END on_a_cluster]
