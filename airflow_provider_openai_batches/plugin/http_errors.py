"""Every failure as a status and a sentence that says what to do; no key, header or setting is in one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from airflow_provider_openai_batches.exceptions import (
    APIError,
    InvalidConnectionError,
    InvalidInputError,
    TransportError,
)
from airflow_provider_openai_batches.plugin.clients import UnknownConnectionError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)
UNAUTHORIZED = (401, 403)
MAX_WORDS = 300


def http_error(error: Exception, conn_id: str, secrets: list[str]) -> HTTPException:
    """
    The answer to give for ``error``.

    :param secrets: what is blotted out of the service's own words.
    """
    if isinstance(error, UnknownConnectionError):
        return HTTPException(
            404,
            f"There is no connection {conn_id!r} of type openai_batches or openai. "
            "Create it under Admin → Connections, or choose another one.",
        )
    if isinstance(error, InvalidConnectionError):
        # The error's own words may quote the connection's settings, which are not for every viewer.
        log.warning("The page cannot use its connection. %s", error)
        return HTTPException(
            422,
            f"Connection {conn_id!r} cannot be used: its API key or another setting is missing or wrong. "
            "Open it under Admin → Connections and press Test to read what it is.",
        )
    if isinstance(error, InvalidInputError):
        return HTTPException(400, str(error))
    if isinstance(error, APIError):
        return _refused(error, conn_id, secrets)
    if isinstance(error, TransportError):
        return _unreachable(error, conn_id)
    raise error


def _refused(error: APIError, conn_id: str, secrets: list[str]) -> HTTPException:
    if error.status in UNAUTHORIZED:
        return HTTPException(
            502,
            f"The service refuses the API key of connection {conn_id!r} (HTTP {error.status}). "
            "Put a valid key into it under Admin → Connections.",
        )
    words = error.message
    if error.status == 404:  # noqa: PLR2004 - HTTP
        return HTTPException(404, f"The service behind connection {conn_id!r} knows no such batch.")
    if error.status == 409:  # noqa: PLR2004 - HTTP
        return HTTPException(409, "The batch is over or being cancelled: there is nothing left to cancel.")
    for secret in filter(None, secrets):
        words = words.replace(secret, "***")
    words = words[:MAX_WORDS]
    if error.status == 429 or error.status >= 500:  # noqa: PLR2004 - HTTP
        return HTTPException(
            503, f"The service is busy or down (HTTP {error.status}: {words}). Try again soon."
        )
    return HTTPException(502, f"The service behind connection {conn_id!r} says: HTTP {error.status}: {words}")


def _unreachable(error: TransportError, conn_id: str) -> HTTPException:
    log.warning("Connection %r: %s", conn_id, error)
    if error.sent:
        return HTTPException(
            502,
            f"The host of connection {conn_id!r} gave no answer that a Batch API would give. Try again soon; "
            "if it stays so, check its base URL under Admin → Connections.",
        )
    return HTTPException(
        503,
        f"The host of connection {conn_id!r} cannot be reached. Try again soon; if it stays so, check its "
        "base URL under Admin → Connections and whether the API server may reach that host.",
    )


def answer_with_sentences(app: FastAPI) -> None:
    """Make ``{"detail": "a sentence"}`` of what FastAPI would answer with a list or a bare text."""

    @app.exception_handler(RequestValidationError)
    async def _bad_request(_: Request, error: RequestValidationError) -> JSONResponse:
        words = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
        return JSONResponse({"detail": f"The request cannot be read. {words}."}, 422)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("The OpenAI Batches page failed", exc_info=error)
        return JSONResponse({"detail": "This page failed on the server. Its log says why."}, 500)
