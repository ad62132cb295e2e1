"""
What differs between the endpoints of a batch on the way in.

https://developers.openai.com/api/docs/guides/batch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT = "chat/completions"
RESPONSES = "responses"
EMBEDDINGS = "embeddings"
COMPLETIONS = "completions"
MODERATIONS = "moderations"
IMAGES = "images/generations"
IMAGE_EDITS = "images/edits"

_PROMPT_FIELD = {
    RESPONSES: "input",
    EMBEDDINGS: "input",
    COMPLETIONS: "prompt",
    MODERATIONS: "input",
    IMAGES: "prompt",
}
# One of these must be there; a body without any is most likely a row that was meant for a template.
_CONTENT_FIELDS = {
    CHAT: ("messages",),
    RESPONSES: ("input", "prompt", "previous_response_id", "conversation"),
    EMBEDDINGS: ("input",),
    COMPLETIONS: ("prompt",),
    MODERATIONS: ("input",),
    IMAGES: ("prompt",),
}
_MODEL_REQUIRED = frozenset({CHAT, EMBEDDINGS, COMPLETIONS})


def kind_of(endpoint: str) -> str:
    """``chat/completions`` for ``/v1/chat/completions`` and for ``/chat/completions``, as Azure has it."""
    if not endpoint.startswith("/"):
        raise InvalidInputError(f"endpoint {endpoint!r} is no path such as /v1/chat/completions")
    return endpoint.removeprefix("/v1").strip("/")


def prompt_body(kind: str, prompt: str) -> dict[str, Any]:
    """
    Make the request body for one prompt.

    :raises InvalidInputError: if the endpoint takes no prompt.
    """
    if kind == CHAT:
        return {"messages": [{"role": "user", "content": prompt}]}
    try:
        return {_PROMPT_FIELD[kind]: prompt}
    except KeyError:
        raise InvalidInputError(f"text is no request for {kind}: give whole request bodies") from None


def check_body(kind: str, body: Mapping[str, Any]) -> None:
    """
    Refuse what the endpoint would refuse for certain, after a day.

    :raises InvalidInputError: if the content or the model is missing.
    """
    fields = _CONTENT_FIELDS.get(kind, ())
    for field in fields:
        if field in body:
            break
    else:
        if fields:
            raise InvalidInputError(
                f"a body for {kind} needs {' or '.join(map(repr, fields))}, this one has "
                f"{', '.join(map(repr, body)) or 'nothing'}: if it is a row, give a template for the body"
            )
    model = body.get("model")
    if not (isinstance(model, str) and model) and (model is not None or kind in _MODEL_REQUIRED):
        raise InvalidInputError(f"its model is {model!r}: name one, in the body or for the whole job")


def embedding_inputs(body: Mapping[str, Any]) -> int:
    """How many inputs an embeddings request counts for: texts, or lists of tokens."""
    given = body.get("input")
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return len(given)
    return 1
