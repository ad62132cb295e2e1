"""Label the rows of a query, and write the labels back to the database."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook
from airflow.sdk import DAG, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

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

    @task
    def write_back(summary: dict[str, Any]) -> int:
        """Write the labels to a table, and return how many there are."""
        database = BaseHook.get_hook(DATABASE)
        database.run("DROP TABLE IF EXISTS labels")
        database.run("CREATE TABLE labels (iata TEXT PRIMARY KEY, is_capital TEXT)")
        written = 0
        for part in summary["parts"]:
            with (Path(summary["output_uri"]) / part).open(encoding="utf-8") as lines:
                results = [json.loads(line) for line in lines]
            rows = [(row["custom_id"], row["output"]) for row in results if row["status"] == "succeeded"]
            database.insert_rows("labels", rows, target_fields=["iata", "is_capital"])
            written += len(rows)
        return written

    write_back(labels.output)
