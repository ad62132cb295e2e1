"""
The buttons on a task's page: to its batch at the service, and to its job on the page "OpenAI Batches".

Airflow shows what a task has stored under the key of a link, so a button is there as soon as that is stored.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_openai_batches.compat.pages import has_pages
from airflow_provider_openai_batches.idempotency.keys import Origin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch

log = logging.getLogger(__name__)
# Without a slash at the start: browsers resolve it against the base of Airflow's UI, which may have a path.
# Workers need not know that base.
PAGE = "plugin/openai-batches"


class _StoredLink(BaseOperatorLink):
    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the link that the task stored, or ""; Airflow stores it again when the task ends."""
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""


class OpenAIBatchLink(_StoredLink):
    """Link to the batch on OpenAI's platform, or wherever the connection's ``console_url`` says."""

    name = "OpenAI batch"


class OpenAIBatchJobLink(_StoredLink):
    """Link to the batches of the task on this provider's page, which Airflow has since 3.1."""

    name = "Job on the OpenAI Batches page"


def store_batch_link(context: Context, config: ClientConfig, batch_id: str) -> None:
    """Store the link to a batch at once, so that the button is there while the task waits."""
    if link := config.batch_link(batch_id):
        _push(context, OpenAIBatchLink(), link)


def store_job_link(context: Context, conn_id: str) -> None:
    """Store the link to the job of this task, once it has a batch or is about to have one."""
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    _store(context, job_address(conn_id, Origin(ti.dag_id, ti.run_id, ti.task_id, map_index)))


def store_link_to_origin(context: Context, conn_id: str, batch_id: str, batch: Batch | None = None) -> None:
    """
    Store the link to the job that a batch is of, where its metadata says that; otherwise to the batch.

    :param batch: None: nobody has seen it yet.
    """
    origin = Origin() if batch is None else Origin.of(batch)
    is_known = origin.dag_id and origin.run_id and origin.task_id
    _store(context, job_address(conn_id, origin) if is_known else batch_address(conn_id, batch_id))


def _store(context: Context, address: str) -> None:
    if has_pages():
        _push(context, OpenAIBatchJobLink(), address)


def _push(context: Context, link: BaseOperatorLink, address: str) -> None:
    """Store a link. If that fails, a button is missing, and the task goes on: its batch may run already."""
    try:
        context["ti"].xcom_push(link.xcom_key, address)
    except Exception as failure:  # noqa: BLE001 - see above; a custom XCom backend can raise anything
        log.warning("The button %r has no link, because it could not be stored: %s", link.name, failure)


def job_address(conn_id: str, job: Origin) -> str:
    """Return where the page shows a job, relative to the base of Airflow's UI."""
    index = {} if job.map_index < 0 else {"map_index": job.map_index}
    return _address(conn_id=conn_id, dag_id=job.dag_id, run_id=job.run_id, task_id=job.task_id, **index)


def batch_address(conn_id: str, batch_id: str) -> str:
    """Return where the page shows a single batch, relative to the base of Airflow's UI."""
    return _address(conn_id=conn_id, text=batch_id)


def _address(**query: str | int | None) -> str:
    return f"{PAGE}?{urlencode(query, quote_via=quote, safe='')}"
