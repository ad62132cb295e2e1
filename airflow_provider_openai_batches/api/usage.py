"""
The tokens that answers took, whatever names their endpoint has for them.

https://developers.openai.com/api/docs/guides/prompt-caching
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from airflow_provider_openai_batches.api.answers import AnyBody

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.answers import ReportedUsage
    from airflow_provider_openai_batches.api.models import BatchUsage


# No batch has more tokens. A larger count is nonsense, and no float holds those of many digits.
MOST_TOKENS = 10**15


class Usage(msgspec.Struct, gc=False):
    """
    Token counts, under the names of the responses endpoint for every endpoint.

    :param cached_tokens: those of ``input_tokens`` that the service read from its cache.
    :param reasoning_tokens: those that the model thought in; most services have them among ``output_tokens``.
    :param cache_write_tokens: those of ``input_tokens`` that the service wrote to its cache, for which some
        models charge more.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0
    cache_write_tokens: int = 0

    def add(self, other: Usage) -> None:
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.total_tokens += other.total_tokens

    @classmethod
    def of_answer(cls, reported: ReportedUsage) -> Self:
        """Return the tokens that the body of an answer reports."""
        sent = reported.prompt_tokens_details or reported.input_tokens_details
        made = reported.completion_tokens_details or reported.output_tokens_details
        input_tokens = reported.prompt_tokens or reported.input_tokens or 0
        output_tokens = reported.completion_tokens or reported.output_tokens or 0
        return cls(
            input_tokens,
            (sent and sent.cached_tokens) or 0,
            output_tokens,
            (made and made.reasoning_tokens) or 0,
            reported.total_tokens or input_tokens + output_tokens,
            (sent and sent.cache_write_tokens) or 0,
        )

    @classmethod
    def of_batch(cls, reported: BatchUsage | None) -> Self | None:
        """Return the tokens that a batch reports; None if it reports none."""
        if reported is None:
            return None
        sent, made = reported.input_tokens_details, reported.output_tokens_details
        input_tokens, output_tokens = _count(reported.input_tokens), _count(reported.output_tokens)
        return cls(
            input_tokens,
            _count(sent.cached_tokens if sent else 0),
            output_tokens,
            _count(made.reasoning_tokens if made else 0),
            _count(reported.total_tokens) or input_tokens + output_tokens,
            _count(sent.cache_write_tokens if sent else 0),
        )


def _count(reported: int | None) -> int:
    """Return a number of tokens of a batch, whatever the service says; answers have a type for theirs."""
    return min(max(reported or 0, 0), MOST_TOKENS)


def usage_of(body: msgspec.Raw) -> Usage | None:
    """Return the tokens that a body of any endpoint reports, None if it reports none."""
    try:
        reported = msgspec.json.decode(body, type=AnyBody).usage
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return None if reported is None else Usage.of_answer(reported)
