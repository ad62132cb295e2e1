"""
Result lines: what became of a request, and whether it can be asked again.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_openai_batches.api.endpoints import RESPONSES
from airflow_provider_openai_batches.api.retry import Verdict, row_verdict

STATUSES = ("succeeded", "failed", "invalid_output", "expired", "cancelled", "missing")

_ANSWERED = 200
_REDIRECT = 300
_SERVER_ERROR = 500
_NEVER_RAN = {"batch_expired": "expired", "batch_cancelled": "cancelled", "batch_canceled": "cancelled"}
_MAX_MESSAGE = 1_000
_NULL = msgspec.Raw(b"null")


class RowError(msgspec.Struct, frozen=True, gc=False):
    """Why a row has no usable output."""

    code: str
    message: str


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """
    What became of one request.

    :param status: one of :data:`STATUSES`.
    :param retryable: whether asking again may help, and costs nothing twice.
    """

    status: str
    retryable: bool = False
    error: RowError | None = None


class LineResponse(msgspec.Struct, frozen=True, gc=False):
    status_code: int | None = None
    body: msgspec.Raw = _NULL


class LineError(msgspec.Struct, frozen=True, gc=False):
    code: str | None = None
    message: str | None = None


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line of an output or error file; its body is not decoded."""

    custom_id: str
    response: LineResponse | None = None
    error: LineError | None = None


SUCCEEDED = Outcome("succeeded")
MISSING = Outcome(
    "missing", retryable=True, error=RowError("missing", "The service returned no line for this request")
)

_decode_line = msgspec.json.Decoder(Line).decode


def read_line(data: bytes) -> Line | None:
    """Read one line, tolerantly; None if it is no JSON object with a ``custom_id``."""
    try:
        return _decode_line(data)
    except msgspec.ValidationError:
        return _salvage(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _salvage(document: Any) -> Line | None:
    """Read field by field what compatible servers write in other types."""
    if not isinstance(document, dict) or document.get("custom_id") is None:
        return None
    response, error = document.get("response"), document.get("error")
    if not isinstance(error, dict):
        error = None if error is None else {"message": str(error)}
    if response is not None and not isinstance(response, dict):
        error, response = error or {"message": str(response)}, None
    return Line(
        str(document["custom_id"]),
        None if response is None else LineResponse(_status(response), _raw(response.get("body"))),
        None if error is None else LineError(_text(error.get("code")), _text(error.get("message"))),
    )


def _status(response: dict[str, Any]) -> int | None:
    try:
        return int(response["status_code"])
    except (KeyError, TypeError, ValueError):
        return None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def body_of(response: LineResponse) -> msgspec.Raw:
    """Return the body as JSON; some servers write it as a string that holds the JSON."""
    body = response.body
    if bytes(memoryview(body)[:1]) != b'"':
        return body
    text = msgspec.json.decode(body, type=str)
    try:  # encoded again, because the text may have line breaks
        return _raw(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return body


def classify(line: Line, kind: str) -> Outcome:
    """
    Say what became of a request as far as the service says it; its answer is not looked into.

    :param kind: of the endpoint, such as ``chat/completions``.
    """
    response = line.response
    if response is None:
        return _never_ran(line.error)
    status = response.status_code
    if status is None:
        status = _SERVER_ERROR if line.error else _ANSWERED
    if not _ANSWERED <= status < _REDIRECT:
        return _refused(status, line)
    if kind == RESPONSES or response.status_code is None:
        return _failed_inside(response)
    return SUCCEEDED


def _never_ran(error: LineError | None) -> Outcome:
    if error is None:
        return MISSING
    code = error.code or "error"
    status = _NEVER_RAN.get(code, "failed")
    retryable = status != "failed" or row_verdict(code, None) is Verdict.REPEAT
    return Outcome(status, retryable, RowError(code, (error.message or code)[:_MAX_MESSAGE]))


def _refused(status: int, line: Line) -> Outcome:
    """Tell from the HTTP status, which is not that of a success, and the error in the body or beside it."""
    body = _decoded(line.response)
    detail = body.get("error", body) if isinstance(body, dict) else body
    error = _error_of(detail, line.error, f"http_{status}")
    return Outcome("failed", row_verdict(error.code, status) is Verdict.REPEAT, error)


def _failed_inside(response: LineResponse) -> Outcome:
    """A response object says in itself whether it failed."""
    try:
        body = _decode_inside(body_of(response))
    except msgspec.ValidationError:  # no object
        return SUCCEEDED
    if body.status != "failed" and (response.status_code is not None or not body.error):
        return SUCCEEDED
    error = _error_of(body.error, None, "failed")
    return Outcome("failed", row_verdict(error.code, _ANSWERED) is Verdict.REPEAT, error)


class _Inside(msgspec.Struct, frozen=True):
    status: Any = None
    error: Any = None


_decode_inside = msgspec.json.Decoder(_Inside).decode


def _decoded(response: LineResponse | None) -> Any:
    return response and msgspec.json.decode(body_of(response))


def _error_of(detail: Any, beside: LineError | None, default: str) -> RowError:
    fields = detail if isinstance(detail, dict) else {}
    code = fields.get("code") or fields.get("type") or (beside and beside.code) or default
    message = fields.get("message") or fields.get("detail") or (beside and beside.message) or detail or code
    return RowError(str(code), str(message)[:_MAX_MESSAGE])
