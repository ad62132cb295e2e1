"""PURE: the one retry policy, which both clients hand to tenacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import tenacity

from airflow_provider_openai_batches.api.protocol import may_repeat
from airflow_provider_openai_batches.exceptions import APIError

if TYPE_CHECKING:
    from collections.abc import Callable


class Log(Protocol):
    """What is asked of a logger: the standard library's and Airflow's own both have it."""

    @property
    def info(self) -> Callable[..., Any]: ...
    @property
    def error(self) -> Callable[..., Any]: ...
    @property
    def warning(self) -> Callable[..., Any]: ...


# Longer than this no Retry-After is obeyed: a worker slot is not a place to sleep in.
MAX_RETRY_AFTER = 300.0
_backoff = tenacity.wait_exponential(multiplier=0.5, max=30.0) + tenacity.wait_random(0, 0.5)


def wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt: exponential with jitter, or longer if the service asks for it."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, APIError) else None
    return max(_backoff(state), min(asked or 0.0, MAX_RETRY_AFTER))


def policy(operation: str, max_attempts: int, log: Log) -> dict[str, Any]:
    """The arguments of ``tenacity.Retrying`` or ``tenacity.AsyncRetrying`` for one operation."""

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
