"""The button on a task's page that leads to its batch at the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


class OpenAIBatchLink(BaseOperatorLink):
    """Link to the batch on OpenAI's platform, or wherever the connection's ``console_url`` says."""

    name = "OpenAI batch"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the link that the task stored, or ""; Airflow stores it again when the task ends."""
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""
