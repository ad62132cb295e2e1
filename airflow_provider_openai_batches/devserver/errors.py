"""Errors in the shape that the service answers with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

# What decoding raises for what is not JSON, or is nested a thousand levels deep.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ApiError(Exception):
    """
    An answer that is not a success.

    :param status: the HTTP status.
    :param param: the parameter that is at fault.
    :param code: the service's code for the error.
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
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "insufficient_quota" if code == "insufficient_quota" else "requests"
        code = code or "rate_limit_exceeded"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def invalid(param: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def no_such_file(file_id: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, f"No such File object: {file_id}", param="id")


def no_such_batch(batch_id: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, f"No batch found with id '{batch_id}'.")
