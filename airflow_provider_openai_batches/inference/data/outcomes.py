"""
The possible outcomes of a request, and how its failures are told apart.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_openai_batches.api.retry import Verdict, row_verdict

STATUSES = ("succeeded", "failed", "invalid_output", "expired", "cancelled", "missing")
_NEVER_RAN = {"batch_expired": "expired", "batch_cancelled": "cancelled", "batch_canceled": "cancelled"}
_MAX_MESSAGE = 1_000


class RowError(msgspec.Struct, frozen=True, gc=False):
    """Why a row has no usable output."""

    code: str
    message: str


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """
    What became of one request.

    :param status: one of :data:`STATUSES`.
    :param retryable: whether it can be asked again: that may help, and nothing is paid twice.
    """

    status: str
    retryable: bool = False
    error: RowError | None = None


SUCCEEDED = Outcome("succeeded")


def never_ran(code: str | None, message: str | None) -> Outcome:
    """Judge a request whose line has an error in place of a response."""
    code = code or "error"
    return _failure(_NEVER_RAN.get(code, "failed"), None, code, message or code)


def refused(status: int, body: Any, code: str | None, message: str | None) -> Outcome:
    """
    Judge a response that is an error.

    :param status: its HTTP status.
    :param body: its decoded body; servers put the error into it in several ways.
    :param code: the code of an error next to the response; ``message`` is that error's message.
    """
    detail = body.get("error", body) if isinstance(body, dict) else body
    return _failure("failed", status, *_described(detail, code or f"http_{status}", message))


def failed_inside(status: int, error: Any) -> Outcome:
    """
    Judge a body that reports a failure although its HTTP status is that of a success.

    :param error: the field of that name.
    """
    return _failure("failed", status, *_described(error, "failed", None))


def _described(detail: Any, default_code: str, default_message: str | None) -> tuple[str, Any]:
    """Return code and message of an error that may be an object, a text, or nothing."""
    fields = detail if isinstance(detail, dict) else {}
    code = fields.get("code") or fields.get("type") or default_code
    message = fields.get("message") or fields.get("detail") or default_message or detail or code
    return str(code), message


def _failure(status: str, http_status: int | None, code: str, message: Any) -> Outcome:
    retryable = row_verdict(code, http_status) is Verdict.REPEAT
    return Outcome(status, retryable, RowError(code, str(message)[:_MAX_MESSAGE]))


MISSING = _failure("missing", None, "missing", "The service returned no line for this request")
