"""
The endpoints that a batch can call, and how each one answers a request.

To add an endpoint, add a record to ``ENDPOINTS`` and a function that makes its answers. The same request
always gets the same answer. Every answer says that no model made it: in ``system_fingerprint`` or in
``devserver``.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from airflow_provider_openai_batches.devserver.limits import MAX_EMBEDDING_INPUTS
from airflow_provider_openai_batches.devserver.replies import reply
from airflow_provider_openai_batches.devserver.schema import instance
from airflow_provider_openai_batches.devserver.token_usage import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSAL = "The dev server refuses, as the request asked it to."
CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
FLAGGED_ABOVE = 0.9
DEFAULT_DIMENSIONS = 8
# One transparent pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
CHAT = "/v1/chat/completions"


class Prompt(NamedTuple):
    """
    What an endpoint's function gets, to make an answer from.

    :param body: the body of the request.
    :param content: the field of the body that holds the prompt.
    :param text: all texts of the prompt and the instructions.
    :param id: a part of the id of the answer.
    :param created: the Unix second at which the answer says it was made.
    :param quirk: ``refuse`` or ``invalid_json``, if the request asks for that.
    """

    body: dict[str, Any]
    content: Any
    text: str
    id: str
    input_tokens: int
    created: int
    quirk: str


class Endpoint(NamedTuple):
    """
    What the server knows about an endpoint.

    :param content: the name of the field that holds the prompt; a request without it is answered 400.
    :param answer: makes the body of the answer, and says how many tokens that took.
    :param max_inputs: how many inputs the requests of a batch may have together, if there is a limit.
    """

    path: str
    content: str
    answer: Callable[[Prompt], tuple[Any, TokenUsage]]
    needs_model: bool = False
    max_inputs: int | None = None


def inputs_of(content: Any) -> list[Any]:
    """The inputs of an embedding or moderation. A list holds several inputs, but a list of tokens is one."""
    several = isinstance(content, list) and content and not isinstance(content[0], int)
    return content if several else [content]


def _reply(prompt: Prompt, schema: Any) -> str:
    if prompt.quirk == "invalid_json":
        return '{"devserver": '
    if schema is not None:
        return msgspec.json.encode(instance(schema, prompt.text)).decode()
    return reply(prompt.text)


def _nested(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _usage(prompt: Prompt, text: str) -> TokenUsage:
    return TokenUsage.of(prompt.input_tokens, max(1, len(text) // 4))


def _chat(prompt: Prompt) -> tuple[Any, TokenUsage]:
    refused = prompt.quirk == "refuse"
    schema = _nested(prompt.body, "response_format", "json_schema", "schema")
    text = REFUSAL if refused else _reply(prompt, schema)
    usage = _usage(prompt, text)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused else text,
        "refusal": text if refused else None,
        "annotations": [],
    }
    return {
        "id": f"chatcmpl-{prompt.id}",
        "object": "chat.completion",
        "created": prompt.created,
        "model": prompt.body.get("model"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage.completion_report(),
        "service_tier": "default",
        "system_fingerprint": "devserver",
    }, usage


def _responses(prompt: Prompt) -> tuple[Any, TokenUsage]:
    refused = prompt.quirk == "refuse"
    text = REFUSAL if refused else _reply(prompt, _nested(prompt.body, "text", "format", "schema"))
    usage = _usage(prompt, text)
    part = (
        {"type": "refusal", "refusal": text}
        if refused
        else {"type": "output_text", "text": text, "annotations": []}
    )
    message = {
        "id": f"msg_{prompt.id}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    return {
        "id": f"resp_{prompt.id}",
        "object": "response",
        "created_at": prompt.created,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": prompt.body.get("model"),
        "output": [message],
        "metadata": prompt.body.get("metadata") or {},
        "usage": usage.report(),
        "devserver": True,
    }, usage


def _completions(prompt: Prompt) -> tuple[Any, TokenUsage]:
    text = _reply(prompt, None)
    usage = _usage(prompt, text)
    return {
        "id": f"cmpl-{prompt.id}",
        "object": "text_completion",
        "created": prompt.created,
        "model": prompt.body.get("model"),
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage.completion_report(),
        "system_fingerprint": "devserver",
    }, usage


def _input_bytes(content: Any) -> list[bytes]:
    return [
        item.encode("utf-8", "replace") if isinstance(item, str) else msgspec.json.encode(item)
        for item in inputs_of(content)
    ]


def _vector(data: bytes, size: int) -> list[float]:
    words = struct.unpack(f"<{size}h", hashlib.shake_128(data).digest(2 * size))
    length = sum(word * word for word in words) ** 0.5 or 1.0
    return [word / length for word in words]


def _embeddings(prompt: Prompt) -> tuple[Any, TokenUsage]:
    size = prompt.body.get("dimensions")
    size = size if isinstance(size, int) and size > 0 else DEFAULT_DIMENSIONS
    vectors: list[Any] = [_vector(data, size) for data in _input_bytes(prompt.content)]
    if prompt.body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() for vector in vectors]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": prompt.body.get("model"),
        "usage": {"prompt_tokens": prompt.input_tokens, "total_tokens": prompt.input_tokens},
        "devserver": True,
    }, TokenUsage.of(prompt.input_tokens)


def _moderations(prompt: Prompt) -> tuple[Any, TokenUsage]:
    results = []
    for data in _input_bytes(prompt.content):
        scores = {name: crc32(name.encode() + data) % 100 / 100 for name in CATEGORIES}
        verdicts = {name: score > FLAGGED_ABOVE for name, score in scores.items()}
        results.append({"flagged": any(verdicts.values()), "categories": verdicts, "category_scores": scores})
    return {
        "id": f"modr-{prompt.id}",
        "model": prompt.body.get("model"),
        "results": results,
        "devserver": True,
    }, TokenUsage.of(prompt.input_tokens)


def _images(prompt: Prompt) -> tuple[Any, TokenUsage]:
    usage = _usage(prompt, PIXEL)
    count = prompt.body.get("n")
    data = [{"b64_json": PIXEL}] * (count if isinstance(count, int) else 1)
    return {"created": prompt.created, "data": data, "usage": usage.report(), "devserver": True}, usage


def _videos(prompt: Prompt) -> tuple[Any, TokenUsage]:
    return {
        "id": f"video_{prompt.id}",
        "object": "video",
        "created_at": prompt.created,
        "status": "completed",
        "model": prompt.body.get("model"),
        "progress": 100,
        "devserver": True,
    }, TokenUsage.of(prompt.input_tokens)


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/responses", "input", _responses, needs_model=True),
        Endpoint(CHAT, "messages", _chat, needs_model=True),
        Endpoint("/v1/embeddings", "input", _embeddings, needs_model=True, max_inputs=MAX_EMBEDDING_INPUTS),
        Endpoint("/v1/completions", "prompt", _completions, needs_model=True),
        Endpoint("/v1/moderations", "input", _moderations),
        Endpoint("/v1/images/generations", "prompt", _images),
        Endpoint("/v1/images/edits", "prompt", _images),
        Endpoint("/v1/videos", "prompt", _videos),
    )
}
