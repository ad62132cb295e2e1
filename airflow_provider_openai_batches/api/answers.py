"""
What the bodies of answers are, and how each kind is read.

https://developers.openai.com/api/reference/overview
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, TypeAlias

import msgspec

# Why an answer can end that is not all that the model would have said.
CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "content_filter", "incomplete"})


# More than anybody pays for, and less than what a column of integers holds.
_Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class TokenDetails(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None


class ReportedUsage(msgspec.Struct, frozen=True, gc=False):
    """The token counts of a body, under the names that its endpoint uses."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
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
    :param problem: what is wrong with an output that is there but is of no use.
    :param calls: whether the body holds something else than texts, such as tool calls.
    :param drafts: further messages of the same answer, the last one first; a schema may fit one of them.
    """

    texts: list[str | None] | None = None
    output: Any = None
    refusal: str | None = None
    finish_reason: str | None = None
    drafts: tuple[str, ...] = ()
    calls: bool = False
    problem: str | None = None

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
    if not isinstance(content, list):  # a server that has read the JSON which the model wrote
        return msgspec.json.encode(content).decode()
    found = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == kind]
    texts = [text for text in found if isinstance(text, str)]
    return "".join(texts) if texts else None


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
    found = next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)
    return str(found) if found else None


class _Embedding(msgspec.Struct, frozen=True, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class EmbeddingsBody(AnyBody, frozen=True, gc=False):
    data: list[_Embedding] = []


def read_embeddings(body: EmbeddingsBody) -> Content | None:
    if not body.data:
        return None
    problem = _gap_in([item.index for item in body.data])
    vectors = [item.embedding for item in sorted(body.data, key=lambda item: item.index or 0)]
    problem = problem or next(filter(None, map(_problem_of, vectors)), None)
    return Content(output=vectors[0] if len(vectors) == 1 else vectors, problem=problem)


def _gap_in(places: list[int | None]) -> str | None:
    """Say whether an input has no embedding; some servers leave the places out, or at 0."""
    known = {place for place in places if place is not None}
    if not any(known) or (len(known) == len(places) and known == set(range(len(places)))):
        return None
    shown = ", ".join(map(str, sorted(known)))
    return f"Some inputs have no embedding: there are {len(places)}, for the inputs {shown:.40}"


def _problem_of(vector: msgspec.Raw) -> str | None:
    """Say why JSON is neither a list of numbers nor the base64 of 4-byte floats, None if it is."""
    data = bytes(vector)
    # Nearly always: it is JSON, so a list without any of these signs holds numbers; none is too large if no
    # exponent is positive. That is found out in a fraction of the time of decoding them.
    is_plain = (
        data[:1] == b"[" and not any(sign in data for sign in _NOT_IN_NUMBERS) and data.count(b"[") == 1
    )
    if is_plain and data.count(b"e") == data.count(b"e-"):
        return None if data.strip(b"[] \t\r") else "The embedding is an empty list"
    try:
        value = msgspec.json.decode(vector, type=list[float] | str)
        size = (
            len(base64.b64decode(value, validate=True))
            if isinstance(value, str)
            else _FLOAT_BYTES * len(value)
        )
    except (ValueError, msgspec.MsgspecError, binascii.Error, RecursionError):
        return f"The embedding is neither numbers nor base64: {data[:80].decode('utf-8', 'replace')}"
    if size % _FLOAT_BYTES:
        return f"The embedding is cut off: {size} bytes are not a whole number of 4-byte floats"
    return None if size else "The embedding is empty"


_NOT_IN_NUMBERS = (b'"', b"n", b"t", b"f", b"{", b"E")
_FLOAT_BYTES = 4


_NULL = msgspec.Raw(b"null")


class ImagesBody(AnyBody, frozen=True, gc=False):
    data: msgspec.Raw = msgspec.Raw(b"")


class ModerationsBody(AnyBody, frozen=True, gc=False):
    results: msgspec.Raw = msgspec.Raw(b"")


_NOTHING = frozenset({b"null", b"[]", b"{}", b'""'})


def is_nothing(value: msgspec.Raw) -> bool:
    """Whether JSON is there but says nothing."""
    data = memoryview(value)
    return len(data) <= len(b"null") and bytes(data) in _NOTHING


class _Image(msgspec.Struct, frozen=True, gc=False):
    url: msgspec.Raw = _NULL
    b64_json: msgspec.Raw = _NULL


_decode_images = msgspec.json.Decoder(list[_Image]).decode


def read_images(body: ImagesBody) -> Content | None:
    """Take the list of images, each of which must have its address or its data."""
    content = read_raw(body.data)
    if content is None or content.problem:
        return content
    try:
        images = _decode_images(body.data)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    for number, image in enumerate(images, 1):
        if is_nothing(image.url) and is_nothing(image.b64_json):
            problem = f"Image {number} of {len(images)} has neither url nor b64_json"
            return Content(output=body.data, problem=problem)
    return content


def read_raw(value: msgspec.Raw) -> Content | None:
    if is_nothing(value):
        return Content(output=value, problem=f"The answer holds no result, but {bytes(value).decode()}")
    return Content(output=value) if value else None
