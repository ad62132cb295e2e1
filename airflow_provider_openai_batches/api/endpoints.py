"""
The endpoints that a batch can use: one record each, with all that differs in requests and answers.

A new endpoint is one more record in :data:`SPECS`, and a struct and a reader if its answers have a new form.

https://developers.openai.com/api/docs/guides/batch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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
    :param finish_reason: why the answer ends where it ends, if the body says so.
    :param drafts: further messages of the same answer, the last one first; a schema may fit one of them.
    """

    texts: list[str | None] | None = None
    output: Any = None
    refusal: str | None = None
    finish_reason: str | None = None
    drafts: list[str] = []


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """
    One endpoint. The defaults are for an unknown endpoint: nothing is checked, and answers are kept as whole
    bodies.

    :param path: without ``/v1``, such as ``chat/completions``.
    :param prompt_field: the field of the body that a prompt goes into; None if a prompt is not enough.
    :param prompt_value: makes the value of that field.
    :param content_fields: one of them must be in a body.
    :param model_required: whether a body must name a model; elsewhere the service has a default.
    :param count_inputs: counts the inputs in the field ``input`` of a body, if the service limits how many a
        file may have.
    :param schema_path: where in a body an output schema goes; empty if the endpoint takes none.
    :param schema_form: puts the schema and its name into the endpoint's own form.
    :param answer: the struct of an answer's body.
    :param read: reads it; returns None if the body does not have the form of the endpoint.
    :param can_fail_inside: whether a body can report a failure although the HTTP status is 200.
    :param gives_vectors: whether an output is a list of numbers, or several.
    """

    path: str
    prompt_field: str | None = None
    prompt_value: Callable[[str], Any] = str
    content_fields: tuple[str, ...] = ()
    model_required: bool = False
    count_inputs: Callable[[Any], int] | None = None
    schema_path: tuple[str, ...] = ()
    schema_form: Callable[[dict[str, Any]], dict[str, Any]] = dict
    answer: type[AnyBody] = AnyBody
    read: Callable[[Any], Content | None] | None = None
    can_fail_inside: bool = False
    gives_vectors: bool = False

    def prompt_body(self, prompt: str) -> dict[str, Any]:
        """
        Make the request body for one prompt.

        :raises InvalidInputError: if the endpoint takes no prompt.
        """
        if self.prompt_field is None:
            raise InvalidInputError(f"{self.path} does not take a prompt: give whole request bodies")
        return {self.prompt_field: self.prompt_value(prompt)}

    def check_body(self, body: Mapping[str, Any]) -> None:
        """
        Refuse a body that the endpoint would certainly refuse, up to a day later.

        :raises InvalidInputError: if the content or the model is missing.
        """
        for field in self.content_fields:
            if field in body:
                break
        else:
            if self.content_fields:
                needed, found = " or ".join(map(repr, self.content_fields)), ", ".join(map(repr, body))
                raise InvalidInputError(
                    f"a body for {self.path} needs {needed}, but this one has {found or 'nothing'}: "
                    "if it is a row, give a template for the body"
                )
        model = body.get("model")
        if not (isinstance(model, str) and model) and (model is not None or self.model_required):
            raise InvalidInputError(f"its model is {model!r}: name one, in the body or for the whole job")

    def with_schema(self, body: dict[str, Any], form: Any) -> dict[str, Any]:
        """
        Return a copy of the body that asks for answers of this form, made by ``schema_form``.

        :raises InvalidInputError: if the body asks for a form already.
        """
        return _placed(body, self.schema_path, form)


def _placed(holder: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    field, *rest = path
    if rest:
        return {**holder, field: _placed(holder.get(field) or {}, tuple(rest), value)}
    if holder.get(field) is not None:
        raise InvalidInputError(f"its body already has {field!r}: give either that or output_schema")
    return {**holder, field: value}


def spec_of(endpoint: str) -> EndpointSpec:
    """
    Return the record of an endpoint such as ``/v1/chat/completions``, or Azure's ``/chat/completions``.

    :raises InvalidInputError: if the endpoint is not a path.
    """
    if not endpoint.startswith("/"):
        raise InvalidInputError(f"endpoint {endpoint!r} is not a path such as /v1/chat/completions")
    path = endpoint.removeprefix("/v1").strip("/")
    return SPECS.get(path) or EndpointSpec(path=path)


def _embedding_inputs(given: Any) -> int:
    """A list counts once for each text or list of tokens in it; a list of numbers is a single input."""
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return len(given)
    return 1


class _Message(msgspec.Struct, frozen=True, gc=False):
    content: Any = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True, gc=False):
    message: _Message = _Message()
    text: str | None = None
    finish_reason: str | None = None


class _Choices(AnyBody, frozen=True, gc=False):
    choices: list[_Choice] = []


def _read_chat(body: _Choices) -> Content | None:
    if not body.choices:
        return None
    first = body.choices[0]
    if len(body.choices) == 1:  # nearly always, and this saves a tenth of the time of a merge
        return Content(
            [_joined(first.message.content, "text")], None, first.message.refusal, first.finish_reason
        )
    refusal = next((choice.message.refusal for choice in body.choices if choice.message.refusal), None)
    texts = [_joined(choice.message.content, "text") for choice in body.choices]
    return Content(texts, None, refusal, first.finish_reason)


def _read_completion(body: _Choices) -> Content | None:
    return Content([choice.text for choice in body.choices]) if body.choices else None


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


class _Response(AnyBody, frozen=True, gc=False):
    output: list[_Item] = []
    incomplete_details: _Incomplete | None = None


def _read_response(body: _Response) -> Content:
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
    reason = body.incomplete_details.reason if body.incomplete_details else None
    return Content([text], None, refusal, reason, [text for text, _, _ in reversed(messages) if text])


def _refusal(parts: list[dict[str, Any]]) -> str | None:
    return next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)


class _Embedding(msgspec.Struct, frozen=True, gc=False):
    embedding: msgspec.Raw
    index: int = 0


class _Embeddings(AnyBody, frozen=True, gc=False):
    data: list[_Embedding] = []


def _read_embeddings(body: _Embeddings) -> Content | None:
    if not body.data:
        return None
    vectors = [item.embedding for item in sorted(body.data, key=lambda item: item.index)]
    return Content(output=vectors[0] if len(vectors) == 1 else vectors)


class _Images(AnyBody, frozen=True, gc=False):
    data: msgspec.Raw = msgspec.Raw(b"")


class _Moderations(AnyBody, frozen=True, gc=False):
    results: msgspec.Raw = msgspec.Raw(b"")


def _raw(value: msgspec.Raw) -> Content | None:
    return Content(output=value) if value else None


_ALL = (
    EndpointSpec(
        path="chat/completions",
        prompt_field="messages",
        prompt_value=lambda prompt: [{"role": "user", "content": prompt}],
        content_fields=("messages",),
        model_required=True,
        schema_path=("response_format",),
        schema_form=lambda schema: {"type": "json_schema", "json_schema": schema},
        answer=_Choices,
        read=_read_chat,
    ),
    EndpointSpec(
        path="responses",
        prompt_field="input",
        content_fields=("input", "prompt", "previous_response_id", "conversation"),
        schema_path=("text", "format"),
        schema_form=lambda schema: {"type": "json_schema", **schema},
        answer=_Response,
        read=_read_response,
        can_fail_inside=True,
    ),
    EndpointSpec(
        path="embeddings",
        prompt_field="input",
        content_fields=("input",),
        model_required=True,
        count_inputs=_embedding_inputs,
        answer=_Embeddings,
        read=_read_embeddings,
        gives_vectors=True,
    ),
    EndpointSpec(
        path="completions",
        prompt_field="prompt",
        content_fields=("prompt",),
        model_required=True,
        answer=_Choices,
        read=_read_completion,
    ),
    EndpointSpec(
        path="moderations",
        prompt_field="input",
        content_fields=("input",),
        answer=_Moderations,
        read=lambda body: _raw(body.results),
    ),
    EndpointSpec(
        path="images/generations",
        prompt_field="prompt",
        content_fields=("prompt",),
        answer=_Images,
        read=lambda body: _raw(body.data),
    ),
    EndpointSpec(path="images/edits", answer=_Images, read=lambda body: _raw(body.data)),
    EndpointSpec(path="videos", prompt_field="prompt", content_fields=("prompt",)),
)
SPECS = {spec.path: spec for spec in _ALL}
