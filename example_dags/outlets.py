"""One DAG labels rows; another starts when they are labelled, and knows how many, where and at what cost."""

from __future__ import annotations

# [START outlets]
import os
from typing import Any

from airflow.sdk import DAG, Asset, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.results import read_results

ROWS = os.environ.get("EXAMPLE_ROWS", "include/places.csv")
WORK = os.environ.get("EXAMPLE_WORK", "include")
LABELS = Asset("place_labels")

with DAG("label_places", schedule=None, tags=["openai"], doc_md=__doc__):
    OpenAIBatchInferenceOperator(
        task_id="label",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        input_uri=ROWS,
        id_column="iata",
        body={"messages": [{"role": "user", "content": "In one word, what is {name} in {city}?"}]},
        output_uri=f"{WORK}/place_labels/{{{{ run_id }}}}",
        outlets=[LABELS],
        poll_interval=float(os.environ.get("EXAMPLE_POLL_INTERVAL", "60")),
        retries=3,
    )

with DAG("publish_labels", schedule=[LABELS], tags=["openai"], doc_md=__doc__):

    @task
    def publish(triggering_asset_events: Any = None) -> int:
        """Several jobs that end together may start one run, so there may be several events; by hand, none."""
        labels = 0
        for events in (triggering_asset_events or {}).values():
            for event in events:
                said = event.extra
                print(f"{said['rows']} rows in {said['output_uri']}: {said['counts']}, {said['cost']}")  # noqa: T201 - to the task's log
                labels += sum(row["status"] == "succeeded" for row in read_results(said["output_uri"]))
        return labels

    publish()
# [END outlets]
