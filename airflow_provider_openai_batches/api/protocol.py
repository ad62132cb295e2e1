"""
Builds each HTTP request and reads each reply, without any I/O.

:mod:`.client` (requests) and :mod:`.async_client` (httpx) send the requests, and decide nothing.
Operations: https://developers.openai.com/api/reference/resources/batches and .../resources/files
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from airflow_provider_openai_batches.api.errors import error_of, excerpt, status_within
from airflow_provider_openai_batches.api.models import (
    UNREADABLE,
    Batch,
    BatchErrors,
    BatchPage,
    File,
    FilePage,
    read,
)
from airflow_provider_openai_batches.api.retry import is_redirect, is_success
from airflow_provider_openai_batches.api.validation import (
    MAX_PAGE,
    check_endpoint,
    check_expiry,
    check_id,
    check_limit,
    check_metadata,
    check_text,
    is_id,
)
from airflow_provider_openai_batches.exceptions import APIError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.config import ClientConfig

# The name of a task that closes connections, and is not cancelled with the one that waits for it.
CLOSING = "closing connections"

T = TypeVar("T", bound=msgspec.Struct)
Named = TypeVar("Named", Batch, File)


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    One call: ``operation`` is the API reference's name for it, ``path`` follows the base URL.

    :param asks_for: the id of the batch or file that the answer must be of.
    :param seconds: how long its whole answer may take, unless the connection says longer.
    """

    operation: str
    method: str
    path: str
    params: dict[str, str] = {}
    json: bytes | None = None
    asks_for: str | None = None
    seconds: float = 0.0


class HttpReply(msgspec.Struct, frozen=True):
    """
    An answer; header names are looked up in any case.

    :param asked_for: the id in its request.
    :param redact: takes the connection's secrets out of what is said of the answer.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked_for: str | None = None
    redact: Callable[[str], str] = str


# -- requests ------------------------------------------------------------------------------------------------


def create_batch(
    input_file_id: str,
    endpoint: str,
    completion_window: str = "24h",
    metadata: Mapping[str, str] | None = None,
    output_expires_after: int | Mapping[str, Any] | None = None,
) -> HttpRequest:
    """``POST /batches``."""
    body: dict[str, Any] = {
        "input_file_id": check_id(input_file_id, "input_file_id"),
        "endpoint": check_endpoint(endpoint),
        "completion_window": check_text(completion_window, "completion_window"),
    }
    if metadata:
        body["metadata"] = check_metadata(metadata)
    if output_expires_after is not None:
        body["output_expires_after"] = check_expiry(output_expires_after, "output_expires_after")
    return HttpRequest(
        operation="create_batch", method="POST", path="/batches", json=msgspec.json.encode(body)
    )


def retrieve_batch(batch_id: str) -> HttpRequest:
    """``GET /batches/{batch_id}``."""
    path = f"/batches/{quote(check_id(batch_id, 'batch_id'), safe='')}"
    return HttpRequest(operation="retrieve_batch", method="GET", path=path, asks_for=batch_id)


def list_batches(after: str | None = None, limit: int = 20) -> HttpRequest:
    """``GET /batches``, newest first."""
    params = {"limit": str(check_limit(limit))}
    if after is not None:
        params["after"] = check_id(after, "after")
    return HttpRequest(operation="list_batches", method="GET", path="/batches", params=params)


def cancel_batch(batch_id: str) -> HttpRequest:
    """``POST /batches/{batch_id}/cancel``."""
    path = f"/batches/{quote(check_id(batch_id, 'batch_id'), safe='')}/cancel"
    return HttpRequest(operation="cancel_batch", method="POST", path=path, asks_for=batch_id)


def upload_file() -> HttpRequest:
    """``POST /files``; the client streams its body (:func:`multipart`)."""
    return HttpRequest(operation="upload_file", method="POST", path="/files")


def retrieve_file(file_id: str) -> HttpRequest:
    """``GET /files/{file_id}``."""
    path = f"/files/{quote(check_id(file_id, 'file_id'), safe='')}"
    return HttpRequest(operation="retrieve_file", method="GET", path=path, asks_for=file_id)


def list_files(purpose: str = "batch", after: str | None = None, limit: int = MAX_PAGE) -> HttpRequest:
    """``GET /files``, newest first."""
    params = {"purpose": purpose, "order": "desc", "limit": str(check_limit(limit))}
    if after is not None:
        params["after"] = check_id(after, "after")
    return HttpRequest(operation="list_files", method="GET", path="/files", params=params)


def delete_file(file_id: str) -> HttpRequest:
    """``DELETE /files/{file_id}``."""
    path = f"/files/{quote(check_id(file_id, 'file_id'), safe='')}"
    return HttpRequest(operation="delete_file", method="DELETE", path=path)


def download_file(file_id: str) -> HttpRequest:
    """``GET /files/{file_id}/content``."""
    path = f"/files/{quote(check_id(file_id, 'file_id'), safe='')}/content"
    return HttpRequest(operation="download_file", method="GET", path=path)


def upload_fields(expires_after: int | Mapping[str, Any] | None) -> dict[str, str]:
    """Return the text fields of ``POST /files``."""
    fields = {"purpose": "batch"}
    if expires_after is not None:
        for name, value in check_expiry(expires_after, "expires_after").items():
            fields[f"expires_after[{name}]"] = str(value)
    return fields


def multipart(fields: Mapping[str, str], filename: str, boundary: str) -> tuple[bytes, bytes]:
    """Return what goes before and after a file's content in a multipart body (RFC 7578)."""
    escaped = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{escaped}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


# -- replies -------------------------------------------------------------------------------------------------


def reply(
    request: HttpRequest, config: ClientConfig, status: int, headers: Mapping[str, str], body: bytes
) -> HttpReply:
    """Put together what a client received."""
    return HttpReply(status, headers, body, request.asks_for, config.redact)


def read_batch(reply: HttpReply) -> Batch:
    return _with_clean_errors(_checked(_read(reply, Batch), reply), reply)


def read_file(reply: HttpReply) -> File:
    return _checked(_read(reply, File), reply)


def read_page(reply: HttpReply) -> BatchPage:
    page = _read_list(reply, BatchPage)
    batches = [_with_clean_errors(batch, reply) for batch in page.data if is_id(batch.id)]
    return replace(page, data=batches)


def read_file_page(reply: HttpReply) -> FilePage:
    page = _read_list(reply, FilePage)
    return replace(page, data=[file for file in page.data if is_id(file.id)])


def read_nothing(reply: HttpReply) -> None:
    """Read nothing: only the status counts."""


def _read(reply: HttpReply, kind: type[T]) -> T:
    """
    Read a successful answer.

    :raises TransportError: if it is not a valid ``kind``: half a body, a proxy's page, another API.
    :raises APIError: if it is an error, although its status is that of a success.
    """
    # Hardly any answer has this word, so most of them are read once.
    if b'"error"' in reply.body and (status := status_within(reply.body)):
        message, code, param = error_of(reply.body, reply.redact)
        said = f"{message} (in an answer with HTTP {reply.status})"
        raise APIError(said, status=status, code=code, param=param)
    try:
        return read(reply.body, kind)
    except UNREADABLE as error:
        raise _is_no(kind, reply, reply.redact(str(error))) from None


def _read_list(reply: HttpReply, kind: type[T]) -> T:
    """
    Read a page; it may be empty, but has to say so: what is not in the list is created again.

    :raises TransportError: also for an object without ``data``.
    """
    page = _read(reply, kind)
    if b'"data"' not in reply.body:
        raise _is_no(kind, reply, "it has no data")
    return page


def _is_no(kind: type[msgspec.Struct], reply: HttpReply, why: str) -> TransportError:
    return TransportError(
        f"HTTP {reply.status}, but the answer is not a {kind.__name__} ({why}): "
        f"{excerpt(reply.body, reply.redact)!r}. If this does not go away, check the connection's base URL."
    )


def failure(reply: HttpReply, config: ClientConfig, now: float) -> APIError | None:
    """
    Return the error that an answer reports; None for a success.

    :param config: its secrets are redacted, in case the service repeats them.
    :param now: Unix seconds, for a ``Retry-After`` that is a date.
    """
    if is_success(reply.status):
        return None
    message, code, param = error_of(reply.body, config.redact)
    if is_redirect(reply.status):
        message += " (redirects are not followed: check the connection's base URL)"
    request_id = reply.headers.get("x-request-id")
    return APIError(
        message,
        status=reply.status,
        code=code,
        param=param,
        request_id=request_id and config.redact(request_id),
        retry_after=retry_after(reply.headers.get("retry-after"), now),
    )


def _checked(found: Named, reply: HttpReply) -> Named:
    """
    Return an object whose id can be a path or a file's name, and is the one that was asked for.

    :raises TransportError: if it is not.
    """
    shown = reply.redact(found.id)[:200]
    if not is_id(found.id):
        raise TransportError(
            f"HTTP {reply.status}, but the answer is not a {type(found).__name__}: its id is {shown!r}"
        )
    if reply.asked_for not in {None, found.id}:
        raise TransportError(f"The service was asked for {reply.asked_for!r}, and answered with {shown!r}.")
    return found


def _with_clean_errors(batch: Batch, reply: HttpReply) -> Batch:
    """Redact what a batch's errors say, because it becomes part of a task's error."""
    if not batch.error_items:
        return batch
    items = [
        replace(
            item,
            **{
                name: reply.redact(text)
                for name in ("code", "message", "param")
                if (text := getattr(item, name))
            },
        )
        for item in batch.error_items
    ]
    return replace(batch, errors=BatchErrors(items))


def raise_failure(reply: HttpReply, config: ClientConfig, now: float) -> None:
    """:raises APIError: if the answer is an error."""
    if failed := failure(reply, config, now):
        raise failed


def no_answer(config: ClientConfig, request: HttpRequest, error: Exception) -> str:
    """Return the message for a request that got no answer."""
    words = config.redact(str(error) or "no reason given")
    return (
        f"{request.method} {request.path}: no answer from {config.base_url} ({type(error).__name__}: {words})"
    )


def too_slow(config: ClientConfig, request: HttpRequest) -> TransportError:
    """Say that a request's answer came byte by byte, or not to its end."""
    return TransportError(
        f"{request.method} {request.path}: the answer from {config.base_url} was not complete after "
        f"{seconds_for(request, config):g} s"
        + ("" if request.seconds > config.answer_seconds else ", twice the connection's timeout")
    )


def seconds_for(request: HttpRequest, config: ClientConfig) -> float:
    """Return how long a whole answer may take."""
    return max(request.seconds, config.answer_seconds)


def retry_after(value: str | None, now: float) -> float | None:
    """Return ``Retry-After`` in seconds, whether it is a number or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if isfinite(seconds) else None
