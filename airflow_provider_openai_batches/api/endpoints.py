"""
The endpoints that a batch can use: one record each, with all that differs in requests and answers.

A new endpoint is one more record in :data:`_ALL`, and a struct and a reader in ``answers`` if its answers
have a new form.

https://developers.openai.com/api/docs/guides/batch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.answers import (
    AnyBody,
    ChoicesBody,
    EmbeddingsBody,
    ImagesBody,
    ModerationsBody,
    ResponseBody,
    read_chat,
    read_completion,
    read_embeddings,
    read_images,
    read_raw,
    read_response,
)
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.answers import Content


# What the commands take that are told of none.
DEFAULT_ENDPOINT = "/v1/chat/completions"
# No request has more output tokens.
_MOST = 1 << 40


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
    :param length_fields: the fields of a body that say how long an answer may be; the first one is new.
    :param has_output: whether its answers have output tokens.
    :param answer: the struct of an answer's body.
    :param read: reads it; returns None if the body does not have the form of the endpoint.
    :param can_fail_inside: whether a body can report a failure although the HTTP status is 200.
    :param gives_vectors: whether an output is a list of numbers, or several.
    :param operation: what OpenTelemetry's conventions for generative AI call a request; empty: they do not.
    """

    path: str
    prompt_field: str | None = None
    prompt_value: Callable[[str], Any] = str
    content_fields: tuple[str, ...] = ()
    model_required: bool = False
    count_inputs: Callable[[Any], int] | None = None
    schema_path: tuple[str, ...] = ()
    schema_form: Callable[[dict[str, Any]], dict[str, Any]] = dict
    length_fields: tuple[str, ...] = ()
    has_output: bool = True
    answer: type[AnyBody] = AnyBody
    read: Callable[[Any], Content | None] | None = None
    can_fail_inside: bool = False
    gives_vectors: bool = False
    operation: str = ""

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

    def most_output_tokens(self, body: Mapping[str, Any]) -> int | None:
        """Return how many output tokens a request may have; None: its body sets no bound."""
        if not self.has_output:
            return 0
        for field in self.length_fields:
            most = body.get(field)
            if most is not None:
                choices = body.get("n") or 1
                is_bound = isinstance(most, int) and isinstance(choices, int) and 0 < most * choices <= _MOST
                return most * choices if is_bound else None
        return None

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


_ALL = (
    EndpointSpec(
        path="chat/completions",
        operation="chat",
        prompt_field="messages",
        prompt_value=lambda prompt: [{"role": "user", "content": prompt}],
        content_fields=("messages",),
        model_required=True,
        schema_path=("response_format",),
        schema_form=lambda schema: {"type": "json_schema", "json_schema": schema},
        length_fields=("max_completion_tokens", "max_tokens"),
        answer=ChoicesBody,
        read=read_chat,
    ),
    EndpointSpec(
        path="responses",
        operation="chat",
        prompt_field="input",
        content_fields=("input", "prompt", "previous_response_id", "conversation"),
        schema_path=("text", "format"),
        schema_form=lambda schema: {"type": "json_schema", **schema},
        length_fields=("max_output_tokens",),
        answer=ResponseBody,
        read=read_response,
        can_fail_inside=True,
    ),
    EndpointSpec(
        path="embeddings",
        operation="embeddings",
        prompt_field="input",
        content_fields=("input",),
        model_required=True,
        count_inputs=_embedding_inputs,
        answer=EmbeddingsBody,
        read=read_embeddings,
        gives_vectors=True,
        has_output=False,
    ),
    EndpointSpec(
        path="completions",
        operation="text_completion",
        prompt_field="prompt",
        content_fields=("prompt",),
        model_required=True,
        length_fields=("max_tokens",),
        answer=ChoicesBody,
        read=read_completion,
    ),
    EndpointSpec(
        path="moderations",
        prompt_field="input",
        content_fields=("input",),
        answer=ModerationsBody,
        read=lambda body: read_raw(body.results),
        has_output=False,
    ),
    EndpointSpec(
        path="images/generations",
        operation="generate_content",
        prompt_field="prompt",
        content_fields=("prompt",),
        answer=ImagesBody,
        read=read_images,
    ),
    EndpointSpec(path="images/edits", operation="generate_content", answer=ImagesBody, read=read_images),
    EndpointSpec(
        path="videos", operation="generate_content", prompt_field="prompt", content_fields=("prompt",)
    ),
)
SPECS = {spec.path: spec for spec in _ALL}
