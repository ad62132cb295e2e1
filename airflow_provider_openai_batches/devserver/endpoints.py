"""
Answers that are made from the request alone: the same request gets the same answer.

Every one says that no model made it: ``system_fingerprint`` (or ``devserver: true``) and the text itself.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from airflow_provider_openai_batches.devserver.errors import error_body
from airflow_provider_openai_batches.devserver.schema import choose, instance
from airflow_provider_openai_batches.devserver.validation import digest, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver.validation import Line

CHOICE = re.compile(r"answer with (?:exactly )?one of:?\s*([^\n.]+)", re.IGNORECASE)
REQUIRED = {
    "/v1/chat/completions": "messages",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
    "/v1/moderations": "input",
    "/v1/images/generations": "prompt",
    "/v1/images/edits": "prompt",
    "/v1/videos": "prompt",
}
REFUSAL = "The dev server refuses, as the request asked it to."
CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
DEFAULT_DIMENSIONS = 8
# One transparent pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


class Tokens(NamedTuple):
    input: int = 0
    output: int = 0

    @property
    def cached(self) -> int:
        return self.input // 8

    @property
    def reasoning(self) -> int:
        return self.output // 4

    def usage(self) -> dict[str, Any]:
        return usage(self.input, self.cached, self.output, self.reasoning)


def usage(given: int, cached: int, made: int, reasoning: int) -> dict[str, Any]:
    """Token counts as a response or a batch reports them."""
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": given + made,
    }


class Answer(NamedTuple):
    status: int
    body: Any
    tokens: Tokens
    id: str


class _Ask(NamedTuple):
    body: dict[str, Any]
    text: str
    id: str
    input_tokens: int
    created: int
    quirk: str


def answer(line: Line, endpoint: str, created: int, quirk: str = "") -> Answer:
    """
    :param created: the Unix second that the answer bears.
    :param quirk: what the request asks to happen: ``fail:STATUS``, ``refuse`` or ``invalid_json``.
    """
    key = digest(line).hex()
    body = msgspec.json.decode(line.body)
    needed = REQUIRED[endpoint]
    if quirk.startswith("fail"):
        status = int(quirk.partition(":")[2] or 400)
        text = f"The dev server answers {status}, as the request asked it to."
        return Answer(status, error_body(status, text), Tokens(), key)
    if body.get(needed) is None:
        text = f"Missing required parameter: '{needed}'."
        return Answer(
            400, error_body(400, text, param=needed, code="missing_required_parameter"), Tokens(), key
        )
    text = "\n".join(_texts([body.get("instructions"), body[needed]]))
    content, tokens = _MAKERS[endpoint](_Ask(body, text, key, tokens_of(line.body), created, quirk))
    return Answer(200, content, tokens, key)


def _texts(value: Any) -> list[str]:
    """Every text in a prompt of whatever shape."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    if isinstance(value, dict):
        return [text for name in ("content", "text") if name in value for text in _texts(value[name])]
    return []


def reply(text: str) -> str:
    """One of the options if the prompt gives some, else a sentence that quotes the prompt's end."""
    if match := CHOICE.search(text):
        options = [part for part in (option.strip(" \t'\"`") for option in match[1].split(",")) if part]
        if options:
            return str(choose(options, text[: match.start()] + text[match.end() :]))
    return f"Dev server answer {crc32(text.encode('utf-8', 'replace')):08x} to: {text[-160:]}"


def _reply(ask: _Ask, schema: Any) -> str:
    if ask.quirk == "invalid_json":
        return '{"devserver": '
    if schema is not None:
        return msgspec.json.encode(instance(schema, ask.text)).decode()
    return reply(ask.text)


def _child(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _count(ask: _Ask, text: str) -> Tokens:
    return Tokens(ask.input_tokens, max(1, len(text) // 4))


def _old_usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def _chat(ask: _Ask) -> tuple[Any, Tokens]:
    refused = ask.quirk == "refuse"
    text = REFUSAL if refused else _reply(ask, _child(ask.body, "response_format", "json_schema", "schema"))
    tokens = _count(ask, text)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused else text,
        "refusal": text if refused else None,
        "annotations": [],
    }
    return {
        "id": f"chatcmpl-{ask.id}",
        "object": "chat.completion",
        "created": ask.created,
        "model": ask.body.get("model"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _old_usage(tokens),
        "service_tier": "default",
        "system_fingerprint": "devserver",
    }, tokens


def _responses(ask: _Ask) -> tuple[Any, Tokens]:
    refused = ask.quirk == "refuse"
    text = REFUSAL if refused else _reply(ask, _child(ask.body, "text", "format", "schema"))
    tokens = _count(ask, text)
    part = (
        {"type": "refusal", "refusal": text}
        if refused
        else {"type": "output_text", "text": text, "annotations": []}
    )
    message = {
        "id": f"msg_{ask.id}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    return {
        "id": f"resp_{ask.id}",
        "object": "response",
        "created_at": ask.created,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": ask.body.get("model"),
        "output": [message],
        "metadata": ask.body.get("metadata") or {},
        "usage": tokens.usage(),
        "devserver": True,
    }, tokens


def _completions(ask: _Ask) -> tuple[Any, Tokens]:
    text = _reply(ask, None)
    tokens = _count(ask, text)
    return {
        "id": f"cmpl-{ask.id}",
        "object": "text_completion",
        "created": ask.created,
        "model": ask.body.get("model"),
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
        "usage": _old_usage(tokens),
        "system_fingerprint": "devserver",
    }, tokens


def _inputs(value: Any) -> list[bytes]:
    several = isinstance(value, list) and value and not isinstance(value[0], int)
    return [
        item.encode("utf-8", "replace") if isinstance(item, str) else msgspec.json.encode(item)
        for item in (value if several else [value])
    ]


def _vector(data: bytes, size: int) -> list[float]:
    words = struct.unpack(f"<{size}h", hashlib.shake_128(data).digest(2 * size))
    length = sum(word * word for word in words) ** 0.5 or 1.0
    return [word / length for word in words]


def _embeddings(ask: _Ask) -> tuple[Any, Tokens]:
    size = ask.body.get("dimensions")
    size = size if isinstance(size, int) and size > 0 else DEFAULT_DIMENSIONS
    vectors: list[Any] = [_vector(data, size) for data in _inputs(ask.body["input"])]
    if ask.body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() for vector in vectors]
    tokens = Tokens(ask.input_tokens)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": ask.body.get("model"),
        "usage": {"prompt_tokens": tokens.input, "total_tokens": tokens.input},
        "devserver": True,
    }, tokens


def _moderations(ask: _Ask) -> tuple[Any, Tokens]:
    results = []
    for data in _inputs(ask.body["input"]):
        scores = {name: crc32(name.encode() + data) % 100 / 100 for name in CATEGORIES}
        verdicts = {name: score > 0.9 for name, score in scores.items()}  # noqa: PLR2004 - some, but few
        results.append({"flagged": any(verdicts.values()), "categories": verdicts, "category_scores": scores})
    return {
        "id": f"modr-{ask.id}",
        "model": ask.body.get("model"),
        "results": results,
        "devserver": True,
    }, Tokens(ask.input_tokens)


def _images(ask: _Ask) -> tuple[Any, Tokens]:
    tokens = _count(ask, PIXEL)
    count = ask.body.get("n")
    data = [{"b64_json": PIXEL}] * (count if isinstance(count, int) else 1)
    return {"created": ask.created, "data": data, "usage": tokens.usage(), "devserver": True}, tokens


def _videos(ask: _Ask) -> tuple[Any, Tokens]:
    return {
        "id": f"video_{ask.id}",
        "object": "video",
        "created_at": ask.created,
        "status": "completed",
        "model": ask.body.get("model"),
        "progress": 100,
        "devserver": True,
    }, Tokens(ask.input_tokens)


_MAKERS: dict[str, Callable[[_Ask], tuple[Any, Tokens]]] = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    "/v1/embeddings": _embeddings,
    "/v1/completions": _completions,
    "/v1/moderations": _moderations,
    "/v1/images/generations": _images,
    "/v1/images/edits": _images,
    "/v1/videos": _videos,
}
