"""
The routes of the page.

======================================  ==================================================================
Route                                   Asks the auth manager for
======================================  ==================================================================
``GET /``                               the website view
``GET /static/…``                       nothing: these are this package's own files
``GET /api/connections``                reading DAGs
``GET /api/batches``                    reading DAGs; then, for each batch, reading its DAG
``GET /api/batches/{batch_id}``         reading the batch's DAG
``POST /api/batches/{batch_id}/cancel`` reading the batch's DAG and editing its task instances
======================================  ==================================================================

Where a batch has no DAG that this Airflow knows, its connection stands for the DAG.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.api_fastapi.logging.decorators import action_logging
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from airflow_provider_openai_batches.exceptions import APIError, OpenAIBatchesError
from airflow_provider_openai_batches.plugin import view
from airflow_provider_openai_batches.plugin.access import rights, run_began
from airflow_provider_openai_batches.plugin.clients import Services, UnknownConnectionError, list_connections
from airflow_provider_openai_batches.plugin.details import read_details
from airflow_provider_openai_batches.plugin.http_errors import answer_with_sentences, http_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from airflow_provider_openai_batches.api.models import Batch, BatchPage
    from airflow_provider_openai_batches.plugin.access import Rights
    from airflow_provider_openai_batches.plugin.clients import Service

STATIC = Path(__file__).parent / "static"
# A run's batches may carry a time a little before the run's: two machines, two clocks.
CLOCK_SKEW = 300
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


def create_app(services: Services | None = None) -> FastAPI:
    """The app that Airflow mounts; it has no OpenAPI page, being no public API."""
    app = FastAPI(title="OpenAI Batches", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services or Services()
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
    """The ids to choose from; nothing else of a connection is told."""
    return {"connections": await asyncio.to_thread(list_connections)}


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
    """One page, newest first, without what the user may not see; of one run if ``run_id`` says so."""
    async with _service(request, conn_id) as service:
        found = await _page(service, conn_id, after)
    began = await asyncio.to_thread(run_began, dag_id, run_id) if dag_id and run_id else None
    asked = [batch for batch in found.data if _is_from(batch, dag_id, run_id)]
    allowed = await asyncio.to_thread(rights, user, conn_id, asked)
    return {
        "batches": [_row(batch, allowed) for batch in asked if allowed.may_read(batch)],
        "hidden": sum(not allowed.may_read(batch) for batch in asked),
        "next": _cursor(found, began),
        "now": time.time(),
    }


@api.get("/batches/{batch_id}")
async def show_batch(request: Request, user: GetUserDep, conn_id: ConnId, batch_id: str) -> dict[str, Any]:
    """A batch with its times, errors, files and first failed requests."""
    async with _service(request, conn_id) as service:
        batch = await service.batch(batch_id)
        allowed = await _allowed(user, conn_id, batch)
        shown = await read_details(service, batch)
    return {"batch": _row(batch, allowed), **shown, "now": time.time()}


def _same_site(request: Request) -> None:
    """
    Refuse what another site could make a browser send.

    Airflow's own cookie is SameSite=Lax. Beside that, a form cannot send JSON, another site's script cannot
    without a preflight that Airflow declines, and a browser that names the sender's site is believed.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "Another site sent this request; it was not carried out.")
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send this as application/json.")


@api.post(
    "/batches/{batch_id}/cancel",
    dependencies=[Depends(_same_site), Depends(action_logging("cancel_openai_batch"))],
)
async def cancel_batch(request: Request, user: GetUserDep, conn_id: ConnId, batch_id: str) -> dict[str, Any]:
    """Cancel a batch that is running; Airflow's audit log keeps who asked."""
    async with _service(request, conn_id) as service:
        batch = await service.client.retrieve_batch(batch_id)
        allowed = await _allowed(user, conn_id, batch)
        if not allowed.may_cancel(batch):
            raise HTTPException(
                403, f"You may not cancel batch {batch_id}: its DAG's tasks are not yours to edit."
            )
        if batch.is_over or batch.status == "cancelling":
            raise HTTPException(409, f"Batch {batch_id} is {batch.status}: there is nothing left to cancel.")
        batch = await service.cancel(batch_id)
    return {"batch": _row(batch, allowed), "now": time.time()}


@asynccontextmanager
async def _service(request: Request, conn_id: str) -> AsyncIterator[Service]:
    """The connection's service, and a sentence for whatever goes wrong with it."""
    services: Services = request.app.state.services
    secrets: list[str] = []
    try:
        service = await services.get(conn_id)
        secrets += [service.config.api_key, *service.config.headers.values(), *service.config.params.values()]
        yield service
    except (OpenAIBatchesError, UnknownConnectionError) as error:
        raise http_error(error, conn_id, secrets) from None


async def _page(service: Service, conn_id: str, after: str | None) -> BatchPage:
    try:
        return await service.page(after)
    except APIError as error:
        if after is not None and error.status in {400, 404, 422}:
            raise HTTPException(
                400,
                f"The list cannot go on after {after!r}: the service knows no such batch. Reload the page.",
            ) from None
        if error.status in {404, 405} or 300 <= error.status < 400:  # noqa: PLR2004 - HTTP
            raise HTTPException(
                502,
                f"The host of connection {conn_id!r} has no Batch API at that address (HTTP {error.status}). "
                "Check the connection's base URL under Admin → Connections.",
            ) from None
        raise


def _cursor(found: BatchPage, began: float | None) -> str | None:
    """Where the next page begins; None at the list's end, and where a run cannot have older batches."""
    if not found.has_more or not found.data:
        return None
    oldest = found.data[-1]
    if began and oldest.created_at and oldest.created_at < began - CLOCK_SKEW:
        return None
    return found.last_id or oldest.id


def _is_from(batch: Batch, dag_id: str | None, run_id: str | None) -> bool:
    origin = view.Origin.of(batch)
    return (dag_id is None or origin.dag_id == dag_id) and (run_id is None or origin.run_id == run_id)


async def _allowed(user: Any, conn_id: str, batch: Batch) -> Rights:
    allowed = await asyncio.to_thread(rights, user, conn_id, [batch])
    if not allowed.may_read(batch):
        raise HTTPException(403, f"You may not see batch {batch.id}: its DAG is not yours to read.")
    return allowed


def _row(batch: Batch, allowed: Rights) -> dict[str, Any]:
    return view.row(batch, dag_known=allowed.knows_dag(batch), may_cancel=allowed.may_cancel(batch))
