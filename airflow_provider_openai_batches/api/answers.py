"""
What the bodies of answers are, and how each kind is read.

https://developers.openai.com/api/reference/overview
"""

from __future__ import annotations

from typing import Any

import msgspec

# Why an answer can end that is not all that the model would have said.
CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "content_filter", "incomplete"})


class TokenDetails(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ReportedUsage(msgspec.Struct, frozen=True, gc=False):
    """The token counts of a body, under the names that its endpoint uses."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    input_tokens_details: TokenDetails | None = None
    output_tokens_details: TokenDetails | None = None


class AnyBody(msgspec.Struct, frozen=True, gc=False):
    """The fields that the body of any answer may have."""

    usage: ReportedUsage | None = None


class Content(msgspec.Struct, frozen=True, gc=False):
    """
    The content of a body: ``texts`` if the endpoint returns text, ``output`` if it returns something else.

    :param output: ``msgspec.Raw`` where JSON is passed on as it came.
    :param finish_reason: why the answer ends where it ends, if the body says so; of several choices that of
        one that was cut off, if there is one.
    :param calls: whether the body holds something else than texts, such as tool calls.
    :param drafts: further messages of the same answer, the last one first; a schema may fit one of them.
    """

    texts: list[str | None] | None = None
    output: Any = None
    refusal: str | None = None
    finish_reason: str | None = None
    drafts: tuple[str, ...] = ()
    calls: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it has neither text nor anything else."""
        return not (
            self.output or self.calls or any(text and not text.isspace() for text in self.texts or ())
        )


class _Message(msgspec.Struct, frozen=True, gc=False):
    content: Any = None
    refusal: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, frozen=True, gc=False):
    message: _Message = _Message()
    text: str | None = None
    finish_reason: str | None = None


class ChoicesBody(AnyBody, frozen=True, gc=False):
    choices: list[_Choice] = []


def read_chat(body: ChoicesBody) -> Content | None:
    if not body.choices:
        return None
    if len(body.choices) == 1:  # nearly always, and this saves a tenth of the time of a merge
        message, reason = body.choices[0].message, body.choices[0].finish_reason
        texts = [_joined(message.content, "text")]
        if message.tool_calls:
            return Content(texts, None, message.refusal, reason, calls=True)
        return Content(texts, None, message.refusal, reason)
    refusal = next((choice.message.refusal for choice in body.choices if choice.message.refusal), None)
    texts = [_joined(choice.message.content, "text") for choice in body.choices]
    calls = any(choice.message.tool_calls for choice in body.choices)
    return Content(texts, None, refusal, _reason(body.choices), calls=calls)


def _reason(choices: list[_Choice]) -> str | None:
    reasons = [choice.finish_reason for choice in choices]
    return next((reason for reason in reasons if reason in CUT_OFF), reasons[0])


def read_completion(body: ChoicesBody) -> Content | None:
    if not body.choices:
        return None
    return Content([choice.text for choice in body.choices], finish_reason=_reason(body.choices))


def _joined(content: Any, kind: str) -> str | None:
    """Return a text that may be split: always by the responses endpoint, and by some servers in chats."""
    if content is None or isinstance(content, str):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == kind]
    return "".join(map(str, texts)) if texts else None


class _Item(msgspec.Struct, frozen=True, gc=False):
    type: str | None = None
    content: Any = None
    phase: Any = None


class _Incomplete(msgspec.Struct, frozen=True, gc=False):
    reason: str | None = None


class ResponseBody(AnyBody, frozen=True, gc=False):
    output: list[_Item] = []
    status: Any = None
    incomplete_details: _Incomplete | None = None


def read_response(body: ResponseBody) -> Content:
    """Take the final message; some answers have a fragment of it, or comments, in messages before it."""
    messages = [
        (_joined(parts, "output_text"), _refusal(parts), item.phase == "commentary")
        for item in body.output
        if item.type == "message" and isinstance(item.content, list)
        if (parts := [part for part in item.content if isinstance(part, dict)])
    ]
    # The last one that says something, and a comment only if there is nothing else; the sort is stable.
    messages.sort(key=lambda message: (bool(message[0] or message[1]), not message[2]))
    text, refusal, _ = messages.pop() if messages else (None, None, False)
    reason = (body.incomplete_details and body.incomplete_details.reason) or None
    if reason is None and body.status == "incomplete":
        reason = "incomplete"
    drafts = tuple(text for text, _, _ in reversed(messages) if text)
    calls = any(item.type not in {"message", "reasoning"} for item in body.output)
    return Content([text], None, refusal, reason, drafts, calls)


def _refusal(parts: list[dict[str, Any]]) -> str | None:
    return next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)


class _Embedding(msgspec.Struct, frozen=True, gc=False):
    embedding: msgspec.Raw
    index: int = 0


class EmbeddingsBody(AnyBody, frozen=True, gc=False):
    data: list[_Embedding] = []


def read_embeddings(body: EmbeddingsBody) -> Content | None:
    if not body.data:
        return None
    vectors = [item.embedding for item in sorted(body.data, key=lambda item: item.index)]
    return Content(output=vectors[0] if len(vectors) == 1 else vectors)


class ImagesBody(AnyBody, frozen=True, gc=False):
    data: msgspec.Raw = msgspec.Raw(b"")


class ModerationsBody(AnyBody, frozen=True, gc=False):
    results: msgspec.Raw = msgspec.Raw(b"")


def read_raw(value: msgspec.Raw) -> Content | None:
    return Content(output=value) if value else None
