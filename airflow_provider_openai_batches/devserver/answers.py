"""Answers a request line without a model. The answer depends only on the line, so it is always the same."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS, Prompt
from airflow_provider_openai_batches.devserver.errors import error_body
from airflow_provider_openai_batches.devserver.input_lines import digest, estimated_tokens
from airflow_provider_openai_batches.devserver.replies import texts_in
from airflow_provider_openai_batches.devserver.token_usage import TokenUsage

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver.input_lines import InputLine

# A plain number, because looking up the enum member for every request is slow.
OK = int(HTTPStatus.OK)


class SyntheticAnswer(NamedTuple):
    """An answer as a model's endpoint would give it."""

    status: int
    body: Any
    usage: TokenUsage


def answer(line: InputLine, endpoint: str, created: int, quirk: str = "") -> SyntheticAnswer:
    """
    Answer one request line.

    :param created: the Unix second at which the answer says it was made.
    :param quirk: what the request asks to happen: ``fail:STATUS``, ``refuse`` or ``invalid_json``.
    """
    if quirk.startswith("fail"):
        status = int(quirk.partition(":")[2] or HTTPStatus.BAD_REQUEST)
        text = f"The dev server answers {status}, as the request asked it to."
        return SyntheticAnswer(status, error_body(status, text), TokenUsage())
    spec = ENDPOINTS[endpoint]
    body = msgspec.json.decode(line.body)
    content = body.get(spec.content)
    if content is None:
        return _missing(spec.content)
    text = "\n".join(texts_in([body.get("instructions"), content]))
    prompt = Prompt(body, content, text, digest(line).hex(), estimated_tokens(line.body), created, quirk)
    made, usage = spec.answer(prompt)
    return SyntheticAnswer(OK, made, usage)


def _missing(param: str) -> SyntheticAnswer:
    status, text = HTTPStatus.BAD_REQUEST, f"Missing required parameter: '{param}'."
    body = error_body(status, text, param=param, code="missing_required_parameter")
    return SyntheticAnswer(status, body, TokenUsage())
