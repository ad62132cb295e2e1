"""
Result lines: what became of each request, as far as its line says it.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from airflow_provider_openai_batches.api.retry import UNREADABLE, is_http_status, is_success
from airflow_provider_openai_batches.inference.data import outcomes
from airflow_provider_openai_batches.inference.data.outcomes import MISSING, SUCCEEDED, Outcome
from airflow_provider_openai_batches.inference.data.tolerant import UnreadableError, glimpse, read_json

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.endpoints import EndpointSpec

_NULL = msgspec.Raw(b"null")


class RawResponse(msgspec.Struct, frozen=True, gc=False):
    status_code: int | None = None
    body: msgspec.Raw = _NULL


class LineError(msgspec.Struct, frozen=True, gc=False):
    code: str | None = None
    message: str | None = None
    type: str | None = None


class RawLine(msgspec.Struct, frozen=True, gc=False):
    """A line of an output or error file; its body is not decoded."""

    is_cut: ClassVar[bool] = False
    custom_id: str
    response: RawResponse | None = None
    error: LineError | None = None


class CutLine(RawLine, frozen=True, gc=False):
    """A line that is not JSON, but says whose it is."""

    is_cut: ClassVar[bool] = True


decode_line = msgspec.json.Decoder(RawLine).decode


def read_line(data: bytes) -> RawLine | None:
    """Read one line, tolerantly; None if it does not say whose it is."""
    try:
        return decode_line(data)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        pass
    try:
        return _salvage(read_json(data))
    except (UnreadableError, RecursionError):
        return _cut_line(data)


def _cut_line(data: bytes) -> CutLine | None:
    """Read what is left: an answer that has begun was paid for, unless its status is that of a failure."""
    seen = glimpse(data)
    if seen is None:
        return None
    custom_id, status = seen
    if status is not None and not is_success(status):
        return CutLine(custom_id, RawResponse(status), LineError(None, "The line with the error is not JSON"))
    said = "An answer came, but its line is not JSON; it is kept as output, and in unreadable.txt"
    return CutLine(custom_id, None, LineError(UNREADABLE, said))


def _salvage(document: Any) -> RawLine | None:
    """Read the fields one by one: compatible servers write some of them in other types."""
    if not isinstance(document, dict) or document.get("custom_id") is None:
        return None
    response, error = document.get("response"), document.get("error")
    if not isinstance(error, dict):
        error = None if error is None else {"message": str(error)}
    if response is not None and not isinstance(response, dict):
        error, response = error or {"message": str(response)}, None
    said = (_text((error or {}).get(name)) for name in LineError.__struct_fields__)
    return RawLine(
        str(document["custom_id"]),
        None if response is None else RawResponse(_status(response), _raw(response.get("body"))),
        None if error is None else LineError(*said),
    )


def _status(response: dict[str, Any]) -> int | None:
    try:
        return int(response["status_code"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None


def _readable(body: msgspec.Raw) -> Any:
    try:
        return read_json(body)
    except UnreadableError:
        return None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def body_of(response: RawResponse) -> msgspec.Raw:
    """Return the body as JSON; some servers write it as a string that holds the JSON."""
    body = response.body
    if bytes(memoryview(body)[:1]) != b'"':
        return body
    try:  # encoded again, because the text may have line breaks
        return _raw(read_json(read_json(body)))
    except (UnreadableError, RecursionError):
        return body


def classify(line: RawLine, spec: EndpointSpec) -> Outcome:
    """Say what became of a request according to the service; the content of its answer is not read."""
    response = line.response
    if response is None:
        return MISSING if line.error is None else outcomes.never_ran(msgspec.structs.asdict(line.error))
    status = response.status_code
    if status is None:
        is_good = line.error is None
    elif is_http_status(status):
        is_good = is_success(status)
    else:  # a number that says nothing, so that the body has to
        is_good = _holds_answer(response, spec)
    if not is_good:
        error = msgspec.structs.asdict(line.error or LineError())
        return outcomes.refused(status, _readable(body_of(response)), error)
    if spec.can_fail_inside or status is None:
        return _outcome_inside(response)
    return SUCCEEDED


def _holds_answer(response: RawResponse, spec: EndpointSpec) -> bool:
    try:
        content = spec.read and spec.read(msgspec.json.decode(body_of(response), type=spec.answer))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return False
    return bool(content and (any(content.texts or ()) or content.output is not None))


class _Status(msgspec.Struct, frozen=True):
    """The part of a body that says whether it is a failure."""

    status: Any = None
    error: Any = None


_decode_status = msgspec.json.Decoder(_Status).decode


def _outcome_inside(response: RawResponse) -> Outcome:
    try:
        body = _decode_status(body_of(response))
    except (
        ValueError,
        msgspec.MsgspecError,
        RecursionError,
    ):  # not an object, or with odd bytes
        fields = _readable(body_of(response))
        body = _Status(fields.get("status"), fields.get("error")) if isinstance(fields, dict) else _Status()
    if body.status != "failed" and (response.status_code is not None or not body.error):
        return SUCCEEDED
    return outcomes.failed_inside(response.status_code or HTTPStatus.OK, body.error)
