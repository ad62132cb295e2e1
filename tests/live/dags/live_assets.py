"""A job whose outlet starts another DAG, and a DAG that batches from elsewhere start when they end."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.triggers.batch_ended import OpenAIBatchEndedTrigger

WORK = os.environ["LIVE_WORK"]
ANSWERS = Asset("live_answers")
ENDED = OpenAIBatchEndedTrigger(metadata={"team": "elsewhere"}, poll_interval=1)
BATCHES = Asset("live_batches", watchers=[AssetWatcher(name="ended", trigger=ENDED)])


@task
def said(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
    """What the events say that started this run."""
    return [event.extra for events in triggering_asset_events.values() for event in events]


with DAG("live_outlet", schedule=None):
    OpenAIBatchInferenceOperator(
        task_id="ask",
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        requests=["one", "two", "three"],
        output_uri=f"{WORK}/outlet/{{{{ run_id }}}}",
        outlets=[ANSWERS],
        poll_interval=1,
    )

with DAG("live_outlet_reader", schedule=[ANSWERS]):
    said()

with DAG("live_from_elsewhere", schedule=[BATCHES]):
    said()
