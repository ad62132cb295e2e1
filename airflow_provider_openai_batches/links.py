"""The button on a task's page that leads to its batch at the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

    from airflow_provider_openai_batches.api.config import ClientConfig


class OpenAIBatchLink(BaseOperatorLink):
    """Link to the batch on OpenAI's platform, or wherever the connection's ``console_url`` says."""

    name = "OpenAI batch"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """What the operator stored when the batch was created; Airflow stores it again at the task's end."""
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""

    @classmethod
    def store(cls, context: Any, config: ClientConfig, batch_id: str) -> None:
        """Store the link at once, so that it is there while the task waits."""
        if config.console_url:
            context["ti"].xcom_push(cls().xcom_key, batch_link(config, batch_id))


def batch_link(config: ClientConfig, batch_id: str) -> str:
    return f"{config.console_url.rstrip('/')}/{quote(batch_id, safe='')}"
