"""What the routes of the page share: the client of a connection, the rights of a user, and rows."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from fastapi import Query, Request

from airflow_provider_openai_batches.exceptions import APIError, InvalidConnectionError, OpenAIBatchesError
from airflow_provider_openai_batches.plugin import view
from airflow_provider_openai_batches.plugin.access import rights
from airflow_provider_openai_batches.plugin.http_errors import (
    connection_error,
    failure,
    list_error,
    service_error,
    too_fast,
)
from airflow_provider_openai_batches.plugin.throttle import TooFastError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.plugin.access import Rights
    from airflow_provider_openai_batches.plugin.clients import CachedClient, CachedClients

ConnId = Annotated[str, Query(min_length=1, max_length=250)]
Text = Annotated[str, Query(min_length=1, max_length=512)]
OptionalText = Annotated[str | None, Query(min_length=1, max_length=512)]


def same_site(request: Request) -> None:
    """
    Refuse a request that another site could make a browser send.

    Airflow's own cookie is SameSite=Lax. In addition, a form cannot send JSON, a script of another site needs
    a preflight that Airflow declines, and browsers say which site a request comes from.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise failure(HTTPStatus.FORBIDDEN, "Another site sent this request; it was not carried out.")
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise failure(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send this as application/json.")


@asynccontextmanager
async def client_of(request: Request, user: Any, conn_id: str) -> AsyncIterator[CachedClient]:
    """The client of a connection, for a user. Its errors become answers with a sentence for the user."""
    clients: CachedClients = request.app.state.clients
    try:
        client = await clients.get(conn_id, str(user.get_id()))
    except (AirflowNotFoundException, InvalidConnectionError) as error:
        raise connection_error(error, conn_id) from None
    except TooFastError as error:
        raise too_fast(error, conn_id) from None
    try:
        yield client
    except OpenAIBatchesError as error:
        raise service_error(error, conn_id, client.config) from None


async def page_after(
    client: CachedClient, conn_id: str, after: str | None, *, now: bool = False
) -> BatchPage:
    """
    The page after a batch.

    :param now: do not take it from the cache.
    """
    try:
        return await (client.page_now(after) if now else client.page(after))
    except APIError as error:
        raise list_error(error, conn_id, after) or error from None


async def allowed_for(user: Any, conn_id: str, batch: Batch) -> Rights:
    allowed = await asyncio.to_thread(rights, user, conn_id, [batch])
    if not allowed.may_read(batch):
        what = missing_right(batch, allowed, "read its DAG", f"read connection {conn_id!r}")
        raise failure(HTTPStatus.FORBIDDEN, f"You may not see batch {batch.id}, because {what}.")
    return allowed


def missing_right(batch: Batch, allowed: Rights, of_dag: str, of_connection: str) -> str:
    """Which right is missing, of those that guard a batch."""
    if allowed.knows_dag(batch):
        return f"you may not {of_dag}"
    return f"no DAG of this Airflow is known to have made it, and you may not {of_connection}"


def row_of(client: CachedClient, batch: Batch, allowed: Rights) -> dict[str, Any]:
    may_cancel = allowed.may_cancel(batch)
    return view.row(batch, client.prices, dag_known=allowed.knows_dag(batch), may_cancel=may_cancel)


def cancel_entry(conn_id: str, batch_id: str) -> tuple[str, dict[str, str]]:
    """What the audit log says of the cancel of a batch."""
    return "cancel_openai_batch", {"conn_id": conn_id, "batch_id": batch_id, "method": "POST"}
