"""
Decides what may be sent again: operations, and the rows of a batch. No other module decides this.

Error codes: https://developers.openai.com/api/docs/guides/error-codes
"""

from __future__ import annotations

import re
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import tenacity

from airflow_provider_openai_batches.exceptions import APIError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable


class Verdict(Enum):
    """What a failure says about sending the same request again."""

    REPEAT = auto()
    """Sending it again may help, and does no harm."""
    MAYBE_STORED = auto()
    """The request may have been carried out: look for its result before sending it again."""
    LATER = auto()
    """Sending it again at once does not help, but some minutes later it may."""
    NEVER = auto()
    """The request will fail again."""


CREATE = "create_batch"
# An error with one of these codes means that the account has no money left: waiting does not help.
NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
# The code of a row whose answer came, and was paid for, but cannot be read.
UNREADABLE = "unreadable"
# Codes of a response object that failed with HTTP status 200; the same request may succeed the next time.
_PASSING_CODES = frozenset({"server_error", "rate_limit_exceeded"})
_PASSING_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})

# Some services' own status for "overloaded".
_OVERLOADED = 529
# What stands for the code of an error that a path does not exist.
_NO_CODE = frozenset({None, "unknown_url", "not_found", "404", "405", "Not Found", "invalid_request_error"})
# A 429 that says this comes again however long one waits.
_TOO_LARGE = re.compile(r"request too large|must be reduced", re.IGNORECASE)

_LAST_STATUS = 599
_ERROR_STATUS = re.compile(r"[45]\d\d")
_ERRORS = [status for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST]
# Their names. RFC 9110 changed some: Python has the older ones until 3.12, and the newer ones from 3.13.
_PHRASES: dict[str, int] = {
    **{status.phrase: status for status in _ERRORS},
    "Request Entity Too Large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "Payload Too Large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "Content Too Large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "Request-URI Too Long": HTTPStatus.REQUEST_URI_TOO_LONG,
    "URI Too Long": HTTPStatus.REQUEST_URI_TOO_LONG,
    "Requested Range Not Satisfiable": HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "Range Not Satisfiable": HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "Unprocessable Entity": HTTPStatus.UNPROCESSABLE_ENTITY,
    "Unprocessable Content": HTTPStatus.UNPROCESSABLE_ENTITY,
}
# How clients and servers write a status into a message: after a word for it, or in front of its own name.
_IN_WORDS = re.compile(
    r"\b(?:error[ _]code|status(?:[ _]?code)?|http(?:/[\d.]+)?(?:[ _]?(?:error|status))?)\W{0,3}([45]\d\d)\b"
    rf"|\b([45]\d\d) (?:client error|server error|{'|'.join(_PHRASES)})\b",
    re.IGNORECASE,
)
# Names of errors without "error", case and signs.
_NAMES: dict[str, int] = {
    **{re.sub("error|[^a-z]", "", phrase.lower()): status for phrase, status in _PHRASES.items()},
    "authentication": HTTPStatus.UNAUTHORIZED,
    "permission": HTTPStatus.FORBIDDEN,
    "permissiondenied": HTTPStatus.FORBIDDEN,
    "modelnotfound": HTTPStatus.NOT_FOUND,
    "requesttoolarge": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "contextlengthexceeded": HTTPStatus.BAD_REQUEST,
    "contentfilter": HTTPStatus.BAD_REQUEST,
    "contentpolicyviolation": HTTPStatus.BAD_REQUEST,
    "validation": HTTPStatus.UNPROCESSABLE_ENTITY,
    "ratelimit": HTTPStatus.TOO_MANY_REQUESTS,
    "timeout": HTTPStatus.REQUEST_TIMEOUT,
}

# Seconds; a longer Retry-After is cut to this, because a task that waits holds a worker's slot.
MAX_RETRY_AFTER = 300.0
_backoff = tenacity.wait_exponential(multiplier=0.5, max=30.0) + tenacity.wait_random(0, 0.5)


class Log(Protocol):
    """The methods of a logger that are used; the standard library's and Airflow's own both have them."""

    @property
    def info(self) -> Callable[..., Any]: ...
    @property
    def error(self) -> Callable[..., Any]: ...
    @property
    def warning(self) -> Callable[..., Any]: ...


def verdict_of(operation: str, error: BaseException) -> Verdict:
    """
    Judge the failure of an operation.

    :param operation: its name in the API reference, such as ``create_batch``.
    """
    if isinstance(error, TransportError):
        return Verdict.MAYBE_STORED if error.sent and operation == CREATE else Verdict.REPEAT
    return _answered(operation, error) if isinstance(error, APIError) else Verdict.NEVER


def _answered(operation: str, error: APIError) -> Verdict:
    """Judge an answer that is an error."""
    is_full = error.status == HTTPStatus.TOO_MANY_REQUESTS
    if error.status not in _PASSING_STATUSES and not is_server_error(error.status):
        return Verdict.NEVER
    if operation == CREATE and not is_full:
        return Verdict.MAYBE_STORED
    if error.code in NO_MONEY:
        return Verdict.NEVER
    if error.status == HTTPStatus.CONFLICT and operation != "upload_file":
        return Verdict.LATER
    return Verdict.REPEAT


def may_repeat(operation: str, error: BaseException) -> bool:
    """Whether the same request may be sent again at once."""
    return verdict_of(operation, error) is Verdict.REPEAT


def is_passing(error: BaseException) -> bool:
    """Whether the failure may go away by itself, so that the same request can succeed later."""
    return verdict_of("", error) is not Verdict.NEVER


def is_file_not_ready(error: BaseException) -> bool:
    """Whether a create was refused because of its input file, which can need a moment after its upload."""
    if not isinstance(error, APIError) or not is_unusable(error):
        return False
    return error.param == "input_file_id" or "file" in (error.message or "").lower()


def may_be_over(error: APIError) -> bool:
    """Whether a cancel may be refused because its batch is over: some services answer 400 or 500 then."""
    return error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT} or is_server_error(error.status)


def has_nothing_to_cancel(error: BaseException) -> bool:
    """Whether a cancel is refused because the service does not know the batch, or says that it is over."""
    return isinstance(error, APIError) and error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}


def is_unusable(error: APIError) -> bool:
    """Whether the service refuses what a request names, such as a file that is gone."""
    return error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND}


def is_refusal(error: BaseException) -> bool:
    """Whether the service refuses the key."""
    return isinstance(error, APIError) and error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


def refuses_all(error: APIError) -> bool:
    """Whether other live requests would be refused too: the key is no good, or there is no money."""
    return is_refusal(error) or error.status == HTTPStatus.PAYMENT_REQUIRED or error.code in NO_MONEY


def has_no_such_endpoint(error: APIError) -> bool:
    """Whether it is the path of a live request that a service does not have, not what its body names."""
    is_path = has_no_batch_api(error) and error.code in _NO_CODE and error.param is None
    return is_path and "model" not in (error.message or "").lower()


def is_overload(status: int) -> bool:
    """Whether a service that answers so wants fewer requests at a time."""
    return status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, _OVERLOADED}


def has_no_batch_api(error: APIError) -> bool:
    """Whether the host answers as one that has no Batch API at the base URL."""
    no_such_path = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    return error.status in no_such_path or is_redirect(error.status)


def is_success(status: int) -> bool:
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def is_redirect(status: int) -> bool:
    return HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST


def is_server_error(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR


def is_http_status(status: int) -> bool:
    """Whether an answer can end with this status; some services write 0 where there was none."""
    return HTTPStatus.OK <= status <= _LAST_STATUS


def row_verdict(code: str, status: int | None, kind: str = "", message: str = "") -> Verdict:
    """
    Judge a row that failed: REPEAT or NEVER.

    :param code: the error's code.
    :param status: the HTTP status of its line; None for a request that never ran.
    :param kind: the error's ``type``; it and ``message`` say the status where the line has none.
    """
    if status is None or not is_http_status(status):
        status = _status_in_words(code, kind, message) or HTTPStatus.INTERNAL_SERVER_ERROR
    is_too_large = status == HTTPStatus.TOO_MANY_REQUESTS and _TOO_LARGE.search(message)
    if code == UNREADABLE or not NO_MONEY.isdisjoint((code, kind)) or is_too_large:
        passing = False
    elif is_success(status):
        passing = code in _PASSING_CODES
    else:
        passing = status in _PASSING_STATUSES or is_server_error(status)
    return Verdict.REPEAT if passing else Verdict.NEVER


def _status_in_words(code: str, kind: str, message: str) -> int | None:
    """Find the HTTP status of an error in its code, its words or its type."""
    found = _IN_WORDS.search(message)
    in_message = int(found[1] or found[2]) if found else None
    return _status_of_name(code) or in_message or _status_of_name(kind)


def _status_of_name(name: str) -> int | None:
    """Read ``400``, ``BadRequestError``, ``openai.NotFoundError`` or ``invalid_request_error``."""
    if name in _PASSING_CODES:
        return HTTPStatus.INTERNAL_SERVER_ERROR
    if _ERROR_STATUS.fullmatch(name):
        return int(name)
    word = re.sub("error|exception|[^a-z]", "", name.rpartition(".")[2].lower())
    if word.startswith(("invalid", "unsupported")):
        return HTTPStatus.BAD_REQUEST
    return _NAMES.get(word)


def wait(state: tenacity.RetryCallState) -> float:
    """Return the seconds until the next attempt: exponential with jitter, or longer if the service asks."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, APIError) else None
    return max(_backoff(state), min(asked or 0.0, MAX_RETRY_AFTER))


def policy(operation: str, max_attempts: int, log: Log) -> dict[str, Any]:
    """Return the arguments of ``tenacity.Retrying`` or ``tenacity.AsyncRetrying`` for one operation."""

    def announce(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0.0
        log.warning(
            "%s: attempt %d of %d failed (%s); the next one in %.1f s",
            operation,
            state.attempt_number,
            max_attempts,
            error,
            seconds,
        )

    return {
        "retry": tenacity.retry_if_exception(lambda error: may_repeat(operation, error)),
        "stop": tenacity.stop_after_attempt(max_attempts),
        "wait": wait,
        "before_sleep": announce,
        "reraise": True,
    }
