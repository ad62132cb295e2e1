"""
The routes of the page.

======================================  ==================================================================
Route                                   Asks the auth manager for
======================================  ==================================================================
``GET /``                               the website view
``GET /static/…``                       nothing: they are files of this package
``GET /api/connections``                reading DAGs
``GET /api/batches``                    reading DAGs; then, for each batch, reading its DAG
``GET /api/costs``                      the same
``GET /api/batches/{batch_id}``         reading the batch's DAG
``POST /api/batches/{batch_id}/cancel`` reading the batch's DAG and editing its task instances
======================================  ==================================================================

A batch that no DAG of this Airflow made, as its key shows, is guarded by its connection instead.
"""

from __future__ import annotations

import asyncio
import platform
import time
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from airflow_provider_openai_batches.compat.dag_tables import audit, run_began
from airflow_provider_openai_batches.exceptions import APIError, InvalidConnectionError, OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import CLOCK_SKEW
from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.plugin import costs, view
from airflow_provider_openai_batches.plugin.access import rights
from airflow_provider_openai_batches.plugin.clients import CachedClients
from airflow_provider_openai_batches.plugin.connections import list_connections
from airflow_provider_openai_batches.plugin.cursors import batch_before, cursor_after
from airflow_provider_openai_batches.plugin.details import read_details
from airflow_provider_openai_batches.plugin.http_errors import (
    answer_with_sentences,
    connection_error,
    failure,
    list_error,
    service_error,
    too_fast,
    unknown_cursor,
)
from airflow_provider_openai_batches.plugin.throttle import TooFastError
from airflow_provider_openai_batches.pricing.account import columns_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.plugin.access import Rights
    from airflow_provider_openai_batches.plugin.clients import CachedClient

# How far the sum of costs goes back at most.
MAX_HOURS = 30 * 24
VERSIONS = {
    "airflow-provider-openai-batches": version("airflow-provider-openai-batches"),
    "apache-airflow": version("apache-airflow"),
    "python": platform.python_version(),
}
STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

router = APIRouter()
api = APIRouter(prefix="/api", dependencies=[Depends(requires_access_dag("GET"))])
ConnId = Annotated[str, Query(min_length=1, max_length=250)]
OptionalText = Annotated[str | None, Query(min_length=1, max_length=512)]


def create_app(clients: CachedClients | None = None) -> FastAPI:
    """The app that Airflow mounts; it has no OpenAPI page, because it is not a public API."""
    app = FastAPI(title="OpenAI Batches", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.clients = clients or CachedClients()
    app.include_router(router)
    app.include_router(api)
    app.mount("/static", StaticFiles(directory=STATIC))
    answer_with_sentences(app)

    @app.middleware("http")
    async def _headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        response.headers["Cache-Control"] = "no-cache" if "/static/" in request.url.path else "no-store"
        return response

    return app


@router.get("/", dependencies=[Depends(requires_access_view(AccessView.WEBSITE))])
async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


@api.get("/connections")
async def connections() -> dict[str, Any]:
    """The ids to choose from, and nothing else about a connection; and the versions, for a bug report."""
    return {"connections": await asyncio.to_thread(list_connections), "versions": VERSIONS}


@api.get("/batches")
async def list_batches(
    request: Request,
    user: GetUserDep,
    *,
    conn_id: ConnId,
    after: OptionalText = None,
    dag_id: OptionalText = None,
    run_id: OptionalText = None,
) -> dict[str, Any]:
    """
    One page of the list, newest first, without the batches that the user may not see.

    :param after: the ``next`` of the page before.
    :param dag_id: show only batches of this DAG.
    :param run_id: show only batches of this run.
    """
    async with _client(request, user, conn_id) as client:
        found = await _page(client, conn_id, after)
    began = await asyncio.to_thread(run_began, dag_id, run_id) if dag_id and run_id else None
    asked = [batch for batch in found.data if Origin.of(batch).is_within(dag_id, run_id)]
    allowed = await asyncio.to_thread(rights, user, conn_id, asked)
    return {
        "batches": [_row(client, batch, allowed) for batch in asked if allowed.may_read(batch)],
        "hidden": sum(not allowed.may_read(batch) for batch in asked),
        "next": _cursor(conn_id, found, began),
        "now": time.time(),
    }


@api.get("/costs")
async def sum_up(
    request: Request,
    user: GetUserDep,
    *,
    conn_id: ConnId,
    hours: Annotated[int, Query(ge=1, le=MAX_HOURS)] = 24,
    by: Annotated[str, Query(min_length=1, max_length=200)] = "dag",
) -> dict[str, Any]:
    """
    What the batches cost that the user may see.

    :param hours: how far to go back.
    :param by: see :func:`columns_of` of the prices.
    """
    since = time.time() - hours * 3600
    async with _client(request, user, conn_id) as client:
        columns_of([by])
        found = await costs.newest(partial(_page_after, client, conn_id), since)
        allowed = await asyncio.to_thread(rights, user, conn_id, found.batches)
        readable = [batch for batch in found.batches if allowed.may_read(batch)]
        summed = await asyncio.to_thread(costs.summed, readable, by, client.prices)
    hidden = len(found.batches) - len(readable)
    return {**summed, "hidden": hidden, "since": since, "reached": found.reached, "now": time.time()}


@api.get("/batches/{batch_id}")
async def show_batch(request: Request, user: GetUserDep, conn_id: ConnId, batch_id: str) -> dict[str, Any]:
    """A batch with its times, errors, files and first failed requests."""
    async with _client(request, user, conn_id) as client:
        batch = await client.batch(batch_id)
        allowed = await _allowed(user, conn_id, batch)
        shown = await read_details(client, batch)
    return {"batch": _row(client, batch, allowed), **shown, "now": time.time()}


def _same_site(request: Request) -> None:
    """
    Refuse a request that another site could make a browser send.

    Airflow's own cookie is SameSite=Lax. In addition, a form cannot send JSON, a script of another site needs
    a preflight that Airflow declines, and browsers say which site a request comes from.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise failure(HTTPStatus.FORBIDDEN, "Another site sent this request; it was not carried out.")
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise failure(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send this as application/json.")


@api.post("/batches/{batch_id}/cancel", dependencies=[Depends(_same_site)])
async def cancel_batch(request: Request, user: GetUserDep, conn_id: ConnId, batch_id: str) -> dict[str, Any]:
    """Cancel a batch that is running; Airflow's audit log records who asked for it."""
    async with _client(request, user, conn_id) as client:
        batch = await client.batch_now(batch_id)
        allowed = await _allowed(user, conn_id, batch)
        if not allowed.may_cancel(batch):
            what = _guard(batch, allowed, "edit the tasks of its DAG", f"edit connection {conn_id!r}")
            raise failure(HTTPStatus.FORBIDDEN, f"You may not cancel batch {batch_id}, because {what}.")
        if not batch.can_be_cancelled:
            raise failure(
                HTTPStatus.CONFLICT, f"Batch {batch_id} is {batch.status}: there is nothing left to cancel."
            )
        # Before the cancel, because that may succeed although its answer is lost.
        await asyncio.to_thread(_audit_cancel, user, conn_id, batch, allowed)
        batch = await client.cancel(batch_id)
    return {"batch": _row(client, batch, allowed), "now": time.time()}


@asynccontextmanager
async def _client(request: Request, user: Any, conn_id: str) -> AsyncIterator[CachedClient]:
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


async def _page(client: CachedClient, conn_id: str, cursor: str | None) -> BatchPage:
    after = batch_before(conn_id, cursor) if cursor else None
    if cursor and after is None:
        raise unknown_cursor(conn_id, cursor)
    return await _page_after(client, conn_id, after)


async def _page_after(client: CachedClient, conn_id: str, after: str | None) -> BatchPage:
    try:
        return await client.page(after)
    except APIError as error:
        raise list_error(error, conn_id, after) or error from None


def _cursor(conn_id: str, found: BatchPage, began: float | None) -> str | None:
    """The cursor of the next page; None if the list has ended, or has gone back past the run's beginning."""
    if not found.has_more or not found.data:
        return None
    oldest = found.data[-1]
    if began and oldest.created_at and oldest.created_at < began - CLOCK_SKEW:
        return None
    return cursor_after(conn_id, found.last_id or oldest.id)


async def _allowed(user: Any, conn_id: str, batch: Batch) -> Rights:
    allowed = await asyncio.to_thread(rights, user, conn_id, [batch])
    if not allowed.may_read(batch):
        what = _guard(batch, allowed, "read its DAG", f"read connection {conn_id!r}")
        raise failure(HTTPStatus.FORBIDDEN, f"You may not see batch {batch.id}, because {what}.")
    return allowed


def _guard(batch: Batch, allowed: Rights, of_dag: str, of_connection: str) -> str:
    """Which right is missing, of those that guard a batch."""
    if allowed.knows_dag(batch):
        return f"you may not {of_dag}"
    return f"no DAG of this Airflow is known to have made it, and you may not {of_connection}"


def _audit_cancel(user: Any, conn_id: str, batch: Batch, allowed: Rights) -> None:
    task = msgspec.structs.asdict(Origin.of(batch)) if allowed.knows_dag(batch) else None
    audit("cancel_openai_batch", user, {"conn_id": conn_id, "batch_id": batch.id, "method": "POST"}, task)


def _row(client: CachedClient, batch: Batch, allowed: Rights) -> dict[str, Any]:
    may_cancel = allowed.may_cancel(batch)
    return view.row(batch, client.prices, dag_known=allowed.knows_dag(batch), may_cancel=may_cancel)
