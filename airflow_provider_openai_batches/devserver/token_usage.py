"""The tokens that a request or a batch has used, in the forms in which the service reports them."""

from __future__ import annotations

from typing import Any, NamedTuple, Self


class TokenUsage(NamedTuple):
    """``cached`` is part of ``input``, and ``reasoning`` is part of ``output``."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, input_tokens: int, output_tokens: int = 0) -> Self:
        """A fixed share of the input counts as cached, and a fixed share of the output as reasoning."""
        return cls(input_tokens, input_tokens // 8, output_tokens, output_tokens // 4)

    def report(self) -> dict[str, Any]:
        """As responses, images and batches report it."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }

    def completion_report(self) -> dict[str, Any]:
        """As chat completions and completions report it."""
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }
