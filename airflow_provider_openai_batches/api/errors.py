"""What an answer that is an error says: OpenAI's form of one, and those of other servers and proxies."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.models import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    Redact = Callable[[str], str]

NO_MESSAGE = "no message"
# The status of an error that comes without one, by its words.
_MEANINGS = (
    (HTTPStatus.NOT_FOUND, r"not.?found|no such|n.t exist|not exist|unknown batch"),
    (HTTPStatus.UNAUTHORIZED, r"api.?key|unauthori[sz]ed|authenticat"),
    (HTTPStatus.TOO_MANY_REQUESTS, r"rate.?limit|too many requests|quota|billing"),
    (
        HTTPStatus.SERVICE_UNAVAILABLE,
        r"overload|unavailable|time.?out|timed out|server.?error|internal|try again",
    ),
)


def error_of(body: bytes, redact: Redact) -> tuple[str, str | None, str | None]:
    """Return message, code and param of an error, redacted."""
    document = _object_in(body)
    if document is None:
        return excerpt(body, redact) or NO_MESSAGE, None, None
    error = document.get("error") or document.get("detail") or document.get("message") or document
    if not isinstance(error, dict):
        return (redact(error) if isinstance(error, str) else _text(error, redact)) or NO_MESSAGE, None, None
    code = error.get("code") or error.get("type")
    message = redact(str(error.get("message") or "")) or _text(error, redact)
    return message or NO_MESSAGE, _optional(code, redact), _optional(error.get("param"), redact)


def status_within(body: bytes) -> int | None:
    """
    Return the status that an error should have had, although it came as a success; None if it is no error.

    An object with an id, or a page, is not an error, whatever else it says.
    """
    document = _object_in(body)
    if document is None or not document.get("error"):
        return None
    if document.get("id") or isinstance(document.get("data"), list):
        return None
    return _meaning(document)


def _object_in(body: bytes) -> dict[str, Any] | None:
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    return document if isinstance(document, dict) else None


def _meaning(document: dict[str, Any]) -> int:
    error = document["error"]
    holders = [document, error] if isinstance(error, dict) else [document]
    for holder in holders:
        for field in ("status", "status_code", "code"):
            number = str(holder.get(field))
            if re.fullmatch("[45][0-9][0-9]", number):
                return int(number)
    words = msgspec.json.encode(error).decode().lower()
    found = (status for status, pattern in _MEANINGS if re.search(pattern, words))
    return next(found, HTTPStatus.BAD_REQUEST)


def excerpt(body: bytes, redact: Redact) -> str:
    """Return the first words of a page, without its markup."""
    text = body[:4_000].decode("utf-8", "replace")
    words = " ".join(re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", " ", text).split())
    return redact(words)[:200]


def _optional(value: object, redact: Redact) -> str | None:
    return None if value is None or value == "" else redact(str(value))


def _text(value: object, redact: Redact) -> str:
    text = redact(msgspec.json.encode(value).decode())  # before it is cut: no half of a secret is left
    return text[:500]
