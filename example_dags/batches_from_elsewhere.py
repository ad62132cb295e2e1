"""A batch that something outside Airflow submitted starts this DAG when it ends; its results are fetched."""

from __future__ import annotations

# [START batches_from_elsewhere]
import os
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_openai_batches.operators.openai_batches import OpenAIDownloadBatchResultsOperator
from airflow_provider_openai_batches.triggers.batch_ended import OpenAIBatchEndedTrigger

WORK = os.environ.get("EXAMPLE_WORK", "include")
# Whoever submits the batches gives them this metadata.
ENDED = OpenAIBatchEndedTrigger(metadata={"team": "search"}, statuses=["completed", "expired"])
BATCHES = Asset("batches_of_search", watchers=[AssetWatcher(name="ended", trigger=ENDED)])

with DAG("batches_from_elsewhere", schedule=[BATCHES], tags=["openai"], doc_md=__doc__):

    @task
    def ended(triggering_asset_events: Any = None) -> list[str]:
        """Batches that end together may start one run, so there may be several events; by hand, none."""
        events = [event for some in (triggering_asset_events or {}).values() for event in some]
        return [event.extra["payload"]["batch_id"] for event in events]

    OpenAIDownloadBatchResultsOperator.partial(
        task_id="fetch", output_uri=f"{WORK}/search/{{{{ run_id }}}}"
    ).expand(batch_id=ended())
# [END batches_from_elsewhere]
