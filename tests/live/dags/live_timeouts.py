"""Tasks that wait in the triggerer for batches that do not end, until their execution_timeout is over."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

WORK = os.environ["LIVE_WORK"]
ENDPOINT = "/v1/chat/completions"
LIMITED: dict[str, Any] = {
    "execution_timeout": timedelta(seconds=40),
    "retries": 1,
    "retry_delay": timedelta(seconds=1),
}
CREATE: dict[str, Any] = {"endpoint": ENDPOINT, "input_file": f"{WORK}/timeouts.jsonl", "poll_interval": 2}


class InPieces(OpenAICreateBatchOperator):
    """Waits again when a wait is over, as it does when the service is away at that moment."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        return self.wait_for(context, list(event["batches"]), "once_more")

    def once_more(self, context: Context, event: dict[str, Any]) -> Any:
        if time.time() < (self.must_end(context) or 0.0):
            return self.wait_for(context, list(event["batches"]), "once_more")
        return super().execute_complete(context, event)


def job(**kwargs: Any) -> OpenAIBatchInferenceOperator:
    """It looks at a batch that is being validated every ten intervals: the task is deferred several times."""
    return OpenAIBatchInferenceOperator(
        endpoint=ENDPOINT,
        model="gpt-5-mini",
        requests=["one", "two"],
        output_uri=f"{WORK}/timeouts/{{{{ ti.dag_id }}}}/{{{{ ti.task_id }}}}",
        poll_interval=0.9,
        **kwargs,
    )


with DAG("live_timeouts", schedule=None, default_args=LIMITED):
    OpenAICreateBatchOperator(task_id="create", **CREATE)
    OpenAICreateBatchOperator(task_id="create_left", cancel_on_timeout=False, **CREATE)
    InPieces(task_id="pieces", cancel_on_timeout=False, batch_timeout=9, **CREATE)
    job(task_id="job")
    job(task_id="job_left", cancel_on_timeout=False)
    OpenAIBatchSensor(task_id="sensor", batch_id="{{ dag_run.conf['batch_id'] }}", poll_interval=2)
