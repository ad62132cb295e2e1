"""Cancel what has been running for longer than it should, whoever submitted it."""

from __future__ import annotations

# [START list_and_cancel]
import time

from airflow.sdk import DAG, Param, get_current_context, task

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.openai_batches import OpenAICancelBatchOperator

with DAG(
    "list_and_cancel",
    schedule=None,
    params={"hours": Param(12, type="number", minimum=0, description="Cancel what is older than this.")},
    tags=["openai"],
    doc_md=__doc__,
):

    @task
    def find_old() -> list[str]:
        """The running batches that are older than the parameter says."""
        oldest = time.time() - 3600 * float(get_current_context()["params"]["hours"])
        running = (batch for batch in OpenAIBatchesHook().iter_batches() if not batch.is_over)
        return [batch.id for batch in running if (batch.created_at or 0) < oldest]

    OpenAICancelBatchOperator.partial(task_id="cancel").expand(batch_id=find_old())
# [END list_and_cancel]
