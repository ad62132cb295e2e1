"""
The statuses of a batch, and what they allow.

https://developers.openai.com/api/docs/guides/batch#4-check-the-status-of-a-batch
"""

from __future__ import annotations

FIRST = "validating"
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
# The terminal statuses that leave requests unexecuted, and the error file's message for such a request.
NOT_EXECUTED = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request was not executed because the batch was cancelled.",
}


def is_over(status: str | None) -> bool:
    """Whether a batch with this status has ended for good."""
    return status in OVER


def can_be_cancelled(status: str) -> bool:
    """Cancelling a batch that is already cancelling is allowed, and changes nothing."""
    return not is_over(status)
