"""
What the page's routes answer when something fails: a status, and a sentence that says what to do.

A sentence never contains a key, a header or another setting of a connection.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from airflow_provider_openai_batches.api.retry import has_no_batch_api, is_passing, is_refusal
from airflow_provider_openai_batches.exceptions import (
    APIError,
    InvalidConnectionError,
    InvalidInputError,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.plugin.throttle import TooFastError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

    from airflow_provider_openai_batches.api.config import ClientConfig

log = logging.getLogger(__name__)
MAX_WORDS = 300
_BAD_CURSOR = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY})


def failure(status: HTTPStatus, sentence: str, headers: dict[str, str] | None = None) -> HTTPException:
    """An error answer. Its status is a plain number, because Airflow's access log shows it as it is given."""
    return HTTPException(status.value, sentence, headers)


def too_fast(error: TooFastError, conn_id: str) -> HTTPException:
    """The answer for a request that would go to the service too soon after many others."""
    seconds = str(math.ceil(error.seconds))
    return failure(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"This page sends no more requests for connection {conn_id!r} right now, because it sent many in the "
        f"last few seconds. Try again in {seconds} s.",
        {"Retry-After": seconds},
    )


def connection_error(error: AirflowNotFoundException | InvalidConnectionError, conn_id: str) -> HTTPException:
    """The answer for a connection that cannot be read."""
    if isinstance(error, AirflowNotFoundException):
        return failure(
            HTTPStatus.NOT_FOUND,
            f"There is no connection {conn_id!r} of type openai_batches or openai. "
            "Create it under Admin → Connections, or choose another one.",
        )
    # The error's own message may quote settings that not every viewer may see.
    log.warning("The page cannot use its connection. %s", error)
    return failure(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"Connection {conn_id!r} cannot be used: its API key or another setting is missing or wrong. "
        "Open it under Admin → Connections and press Test to see which.",
    )


def service_error(error: OpenAIBatchesError, conn_id: str, config: ClientConfig) -> HTTPException:
    """The answer for a request that was refused, here or by the service, or that got no answer."""
    if isinstance(error, TooFastError):
        return too_fast(error, conn_id)
    if isinstance(error, InvalidInputError):
        return failure(HTTPStatus.BAD_REQUEST, str(error))
    if isinstance(error, APIError):
        return _refused(error, conn_id, config)
    if isinstance(error, TransportError):
        return _unreachable(error, conn_id)
    raise error


def unknown_cursor(conn_id: str, cursor: str) -> HTTPException:
    """The answer for a cursor that no page of the connection's list had."""
    return failure(
        HTTPStatus.BAD_REQUEST,
        f"The list of connection {conn_id!r} cannot go on after {cursor!r}: no page of it had that cursor. "
        "Reload the page.",
    )


def list_error(error: APIError, conn_id: str, after: str | None) -> HTTPException | None:
    """The answer for an error that only a list request can have; None for all other errors."""
    if after is not None and error.status in _BAD_CURSOR:
        return failure(
            HTTPStatus.BAD_REQUEST,
            f"The list cannot go on after {after!r}: the service does not know this batch. Reload the page.",
        )
    if has_no_batch_api(error):
        return failure(
            HTTPStatus.BAD_GATEWAY,
            f"The host of connection {conn_id!r} has no Batch API at that address (HTTP {error.status}). "
            "Check the connection's base URL under Admin → Connections.",
        )
    return None


def _refused(error: APIError, conn_id: str, config: ClientConfig) -> HTTPException:
    if is_refusal(error):
        return failure(
            HTTPStatus.BAD_GATEWAY,
            f"The service refuses the API key of connection {conn_id!r} (HTTP {error.status}). "
            "Put a valid key into it under Admin → Connections.",
        )
    if error.status == HTTPStatus.NOT_FOUND:
        return failure(
            HTTPStatus.NOT_FOUND, f"The service behind connection {conn_id!r} does not know this batch."
        )
    if error.status == HTTPStatus.CONFLICT:
        return failure(
            HTTPStatus.CONFLICT, "The batch is over or being cancelled: there is nothing left to cancel."
        )
    words = config.redact(error.message)[:MAX_WORDS]
    if is_passing(error):
        return failure(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"The service is busy or down (HTTP {error.status}: {words}). Try again soon.",
        )
    return failure(
        HTTPStatus.BAD_GATEWAY,
        f"The service behind connection {conn_id!r} says: HTTP {error.status}: {words}",
    )


def _unreachable(error: TransportError, conn_id: str) -> HTTPException:
    log.warning("Connection %r: %s", conn_id, error)
    if error.sent:
        return failure(
            HTTPStatus.BAD_GATEWAY,
            f"The host of connection {conn_id!r} did not answer as a Batch API does. Try again soon. "
            "If that does not help, check its base URL under Admin → Connections.",
        )
    return failure(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"The host of connection {conn_id!r} cannot be reached. Try again soon. If that does not help, "
        "check its base URL under Admin → Connections, and whether the API server may reach that host.",
    )


def answer_with_sentences(app: FastAPI) -> None:
    """Answer with ``{"detail": "a sentence"}`` where FastAPI would answer with a list or plain text."""

    @app.exception_handler(RequestValidationError)
    async def _bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        words = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
        return JSONResponse(
            {"detail": f"The request cannot be read. {words}."}, HTTPStatus.UNPROCESSABLE_ENTITY.value
        )

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("The OpenAI Batches page failed", exc_info=error)
        return JSONResponse(
            {"detail": "This page failed on the server. Its log says why."},
            HTTPStatus.INTERNAL_SERVER_ERROR.value,
        )
