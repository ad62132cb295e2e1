"""
The routes of the page.

======================================  ==================================================================
Route                                   Asks the auth manager for
======================================  ==================================================================
``GET /``                               the website view
``GET /static/…``                       nothing: they are files of this package
``GET /api/connections``                reading DAGs
``GET /api/batches``                    reading DAGs; then, for each batch, reading its DAG; then, for each
                                        task, reading the DAG's task instances and XComs
``GET /api/costs``                      reading DAGs; then, for each batch, reading its DAG
``GET /api/costs/days``                 the same
``GET /api/batches/{batch_id}``         reading the batch's DAG
``POST /api/batches/{batch_id}/cancel`` reading the batch's DAG and editing its task instances
``GET /api/jobs/summary``               reading the DAG and its XComs
``POST /api/jobs/tasks``                reading DAGs; then, for each task, reading its DAG, and the DAG's task
                                        instances and XComs
``POST /api/jobs/cancel``               reading the DAG and editing its task instances
======================================  ==================================================================

A batch that no DAG of this Airflow made, as its key shows, is guarded by its connection instead.
"""

from __future__ import annotations

import asyncio
import platform
import time
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from airflow_provider_openai_batches.compat.dag_tables import audit, run_began
from airflow_provider_openai_batches.hooks.openai_batches import CLOCK_SKEW
from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.plugin import costs
from airflow_provider_openai_batches.plugin.access import rights
from airflow_provider_openai_batches.plugin.clients import CachedClients
from airflow_provider_openai_batches.plugin.connections import list_connections
from airflow_provider_openai_batches.plugin.cost_days import by_day
from airflow_provider_openai_batches.plugin.cursors import batch_before, cursor_after
from airflow_provider_openai_batches.plugin.details import read_details
from airflow_provider_openai_batches.plugin.http_errors import (
    answer_with_sentences,
    failure,
    unknown_cursor,
)
from airflow_provider_openai_batches.plugin.job_routes import jobs_api
from airflow_provider_openai_batches.plugin.jobs import jobs_of, tasks_of
from airflow_provider_openai_batches.plugin.serving import (
    ConnId,
    OptionalText,
    allowed_for,
    cancel_entry,
    client_of,
    missing_right,
    page_after,
    row_of,
    same_site,
)
from airflow_provider_openai_batches.pricing.account import columns_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
Hours = Annotated[int, Query(ge=1, le=MAX_HOURS)]


def create_app(clients: CachedClients | None = None) -> FastAPI:
    """The app that Airflow mounts; it has no OpenAPI page, because it is not a public API."""
    app = FastAPI(title="OpenAI Batches", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.clients = clients or CachedClients()
    app.include_router(router)
    app.include_router(api)
    app.include_router(jobs_api)
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
    async with client_of(request, user, conn_id) as client:
        found = await _page(client, conn_id, after)
    began = await asyncio.to_thread(run_began, dag_id, run_id) if dag_id and run_id else None
    asked = [batch for batch in found.data if Origin.of(batch).is_within(dag_id, run_id)]
    allowed = await asyncio.to_thread(rights, user, conn_id, asked, of_jobs=True)
    return {
        "batches": [row_of(client, batch, allowed) for batch in asked if allowed.may_read(batch)],
        "jobs": await asyncio.to_thread(jobs_of, tasks_of(asked, allowed), allowed),
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
    hours: Hours = 24,
    by: Annotated[str, Query(min_length=1, max_length=200)] = "dag",
) -> dict[str, Any]:
    """
    What the batches cost that the user may see.

    :param hours: how far to go back.
    :param by: see :func:`columns_of` of the prices.
    """
    async with client_of(request, user, conn_id) as client:
        columns_of([by])
        readable, notes = await _readable(client, user, conn_id, hours)
        summed = await asyncio.to_thread(costs.summed, readable, by, client.prices)
    return {**summed, **notes}


@api.get("/costs/days")
async def sum_up_days(
    request: Request,
    user: GetUserDep,
    *,
    conn_id: ConnId,
    hours: Hours = 24,
    by: Literal["dag", "model"] = "dag",
) -> dict[str, Any]:
    """What the batches of each day cost that the user may see, for a chart."""
    async with client_of(request, user, conn_id) as client:
        readable, notes = await _readable(client, user, conn_id, hours)
        days = await asyncio.to_thread(by_day, readable, by, client.prices, notes["since"], notes["now"])
    return {**days, **notes}


async def _readable(
    client: CachedClient, user: Any, conn_id: str, hours: int
) -> tuple[list[Batch], dict[str, Any]]:
    """The batches of the last hours that a user may see, and what the answer has to say about the others."""
    since = time.time() - hours * 3600
    found = await costs.newest(partial(page_after, client, conn_id), since)
    allowed = await asyncio.to_thread(rights, user, conn_id, found.batches)
    readable = [batch for batch in found.batches if allowed.may_read(batch)]
    hidden = len(found.batches) - len(readable)
    return readable, {"hidden": hidden, "since": since, "reached": found.reached, "now": time.time()}


@api.get("/batches/{batch_id}")
async def show_batch(request: Request, user: GetUserDep, conn_id: ConnId, batch_id: str) -> dict[str, Any]:
    """A batch with its times, errors, files and first failed requests."""
    async with client_of(request, user, conn_id) as client:
        batch = await client.batch(batch_id)
        allowed = await allowed_for(user, conn_id, batch)
        shown = await read_details(client, batch)
    return {"batch": row_of(client, batch, allowed), **shown, "now": time.time()}


@api.post("/batches/{batch_id}/cancel", dependencies=[Depends(same_site)])
async def cancel_batch(request: Request, user: GetUserDep, conn_id: ConnId, batch_id: str) -> dict[str, Any]:
    """Cancel a batch that is running; Airflow's audit log records who asked for it."""
    async with client_of(request, user, conn_id) as client:
        batch = await client.batch_now(batch_id)
        allowed = await allowed_for(user, conn_id, batch)
        if not allowed.may_cancel(batch):
            what = missing_right(batch, allowed, "edit the tasks of its DAG", f"edit connection {conn_id!r}")
            raise failure(HTTPStatus.FORBIDDEN, f"You may not cancel batch {batch_id}, because {what}.")
        if not batch.can_be_cancelled:
            raise failure(
                HTTPStatus.CONFLICT, f"Batch {batch_id} is {batch.status}: there is nothing left to cancel."
            )
        # Before the cancel, because that may succeed although its answer is lost.
        await asyncio.to_thread(_audit_cancel, user, conn_id, batch, allowed)
        batch = await client.cancel(batch_id)
    return {"batch": row_of(client, batch, allowed), "now": time.time()}


async def _page(client: CachedClient, conn_id: str, cursor: str | None) -> BatchPage:
    after = batch_before(conn_id, cursor) if cursor else None
    if cursor and after is None:
        raise unknown_cursor(conn_id, cursor)
    return await page_after(client, conn_id, after)


def _cursor(conn_id: str, found: BatchPage, began: float | None) -> str | None:
    """The cursor of the next page; None if the list has ended, or has gone back past the run's beginning."""
    if not found.has_more or not found.data:
        return None
    oldest = found.data[-1]
    if began and oldest.created_at and oldest.created_at < began - CLOCK_SKEW:
        return None
    return cursor_after(conn_id, found.last_id or oldest.id)


def _audit_cancel(user: Any, conn_id: str, batch: Batch, allowed: Rights) -> None:
    task = msgspec.structs.asdict(Origin.of(batch)) if allowed.knows_dag(batch) else None
    audit(user, cancel_entry(conn_id, batch.id), task=task)
