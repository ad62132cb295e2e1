"""A deferred sensor for each id in the file that ``WAITS_IDS`` names."""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

with DAG("many_waits", schedule=None, max_active_tasks=1_000):
    OpenAIBatchSensor.partial(
        task_id="wait", poll_interval=float(os.environ["WAITS_INTERVAL"]), retries=0
    ).expand(batch_id=json.loads(Path(os.environ["WAITS_IDS"]).read_text()))
