"""
The possible outcomes of a request, and how its failures are told apart.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.retry import Verdict, is_http_status, row_verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUSES = ("succeeded", "failed", "invalid_output", "expired", "cancelled", "missing")
_NEVER_RAN = {"batch_expired": "expired", "batch_cancelled": "cancelled", "batch_canceled": "cancelled"}
_MAX_MESSAGE = 1_000
_NOTHING_BESIDE: Mapping[str, str | None] = {}


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


def never_ran(error: Mapping[str, str | None]) -> Outcome:
    """
    Judge a request whose line has an error in place of a response.

    :param error: its ``code``, ``type`` and ``message``.
    """
    return _failure(None, *_described(None, "error", error))


def refused(status: int | None, body: Any, error: Mapping[str, str | None]) -> Outcome:
    """
    Judge a response that is an error.

    :param status: its HTTP status, or a number that is none.
    :param body: its decoded body; servers put the error into it in several ways.
    :param error: ``code``, ``type`` and ``message`` of an error next to the response.
    """
    detail = body.get("error", body) if isinstance(body, dict) else body
    if not detail and status is not None and not is_http_status(status):
        detail = f"{status} stands in place of an HTTP status"
    default_code = "error" if status is None else f"http_{status}"
    return _failure(status, *_described(detail, default_code, error))


def failed_inside(status: int, error: Any) -> Outcome:
    """
    Judge a body that reports a failure although its HTTP status is that of a success.

    :param error: the field of that name.
    """
    return _failure(status, *_described(error, "failed"))


def _described(
    detail: Any, default_code: str, beside: Mapping[str, str | None] = _NOTHING_BESIDE
) -> tuple[str, Any, str]:
    """Return code, message and type of an error that may be an object, a text, or nothing."""
    fields = detail if isinstance(detail, dict) else {}
    code, kind = (fields.get(name) or beside.get(name) for name in ("code", "type"))
    if kind and (not code or str(code).isdecimal()):
        code, kind = kind, code  # a type says more than a number
    code = str(code or default_code)
    message = fields.get("message") or fields.get("detail") or beside.get("message")
    return code, message or detail or code, str(kind or "")


def _failure(http_status: int | None, code: str, message: Any, kind: str = "") -> Outcome:
    message = str(message)[:_MAX_MESSAGE]
    status = _NEVER_RAN.get(code, "failed") if http_status is None else "failed"
    words = (kind, message) if status == "failed" else ("", "")  # no word makes what never ran a refusal
    retryable = row_verdict(code, http_status, *words) is Verdict.REPEAT
    return Outcome(status, retryable, RowError(code, message))


MISSING = Outcome(
    "missing", retryable=True, error=RowError("missing", "The service returned no line for this request")
)
# What became of a request that had no answer when the job's time was up.
TOO_LATE = Outcome(
    "expired", retryable=True, error=RowError("answer_by", "There was no answer by the time of answer_by")
)
