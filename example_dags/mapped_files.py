"""One mapped task for each file that is there today, and the labels of all of them in one table."""

from __future__ import annotations

# [START mapped_files]
import os
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

WORK = os.environ.get("EXAMPLE_WORK", "include")
# A pattern: one task for each file that it fits.
ROWS = os.environ.get("EXAMPLE_ROWS", "include/places*.csv")

with DAG("mapped_files", schedule=None, tags=["openai"], doc_md=__doc__):

    @task
    def find_files() -> list[str]:
        """The files that are there today."""
        return sorted(str(path) for path in Path(ROWS).parent.glob(Path(ROWS).name))

    OpenAIBatchInferenceOperator.partial(
        task_id="label_files",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        id_column="iata",
        body={"messages": [{"role": "user", "content": "Which country is {city} in?"}]},
        # Each instance needs a directory of its own.
        output_uri=f"{WORK}/countries/{{{{ run_id }}}}/{{{{ ti.map_index }}}}",
        output_table="countries",
        output_conn_id="warehouse",
        output_columns={"iata": "custom_id", "country": "output"},
        output_key="iata",
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    ).expand(input_uri=find_files())
# [END mapped_files]
