"""Errors in the shape that the service answers with."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """
    An answer other than 2xx.

    :param status: the HTTP status.
    :param param: the parameter that is at fault.
    :param code: the service's code for it.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param=param, code=code)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, dict[str, Any]]:
    """https://developers.openai.com/api/docs/guides/error-codes"""
    kind = "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004 - HTTP's own border
    if status == 429:  # noqa: PLR2004 - HTTP's own number
        kind = "insufficient_quota" if code == "insufficient_quota" else "requests"
        code = code or "rate_limit_exceeded"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def no_such_file(file_id: str) -> ApiError:
    return ApiError(404, f"No such File object: {file_id}", param="id", code=None)


def no_such_batch(batch_id: str) -> ApiError:
    return ApiError(404, f"No batch found with id '{batch_id}'.", param=None, code=None)
