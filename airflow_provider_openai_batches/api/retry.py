"""
Decides what may be sent again: operations, and the rows of a batch. No other module decides this.

Error codes: https://developers.openai.com/api/docs/guides/error-codes
"""

from __future__ import annotations

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


def is_unusable(error: APIError) -> bool:
    """Whether the service refuses what a request names, such as a file that is gone."""
    return error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND}


def is_refusal(error: BaseException) -> bool:
    """Whether the service refuses the key."""
    return isinstance(error, APIError) and error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


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


def row_verdict(code: str, status: int | None) -> Verdict:
    """
    Judge a row that failed: REPEAT or NEVER.

    :param code: the error's code.
    :param status: the HTTP status of its line; None for a request that never ran.
    """
    if code in NO_MONEY or code == UNREADABLE:
        passing = False
    elif status is None:
        passing = not code.startswith("invalid")
    elif is_success(status):
        passing = code in _PASSING_CODES
    else:
        passing = status in _PASSING_STATUSES or is_server_error(status)
    return Verdict.REPEAT if passing else Verdict.NEVER


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
