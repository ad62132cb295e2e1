"""What a model answered, out of the bodies of the endpoints, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from airflow_provider_openai_batches.api.endpoints import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGES,
    MODERATIONS,
    RESPONSES,
)
from airflow_provider_openai_batches.inference.data.results import (
    SUCCEEDED,
    Outcome,
    RowError,
    body_of,
    classify,
    read_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema


_NOTHING = msgspec.Raw(b"")
_CUT = frozenset({"length", "max_output_tokens"})


class Usage(msgspec.Struct, gc=False):
    """Tokens, in the words of the responses endpoint whatever the endpoint."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0

    def add(self, other: Usage) -> None:
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.total_tokens += other.total_tokens


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a body says; ``output`` is ``msgspec.Raw``, at any depth, where JSON is passed on as it came."""

    outcome: Outcome
    output: Any
    usage: Usage | None


class _Details(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Used(msgspec.Struct, frozen=True, gc=False):
    usage: _Usage | None = None


class _Message(msgspec.Struct, frozen=True, gc=False):
    content: Any = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True, gc=False):
    message: _Message = _Message()
    text: str | None = None
    finish_reason: str | None = None


class _Chat(_Used, frozen=True, gc=False):
    choices: list[_Choice] = []


class _Item(msgspec.Struct, frozen=True, gc=False):
    type: str | None = None
    content: Any = None


class _Incomplete(msgspec.Struct, frozen=True, gc=False):
    reason: str | None = None


class _Response(_Used, frozen=True, gc=False):
    output: list[_Item] = []
    incomplete_details: _Incomplete | None = None


class _Datum(msgspec.Struct, frozen=True, gc=False):
    embedding: msgspec.Raw
    index: int = 0


class _Embeddings(_Used, frozen=True, gc=False):
    data: list[_Datum] = []


class _Data(_Used, frozen=True, gc=False):
    data: msgspec.Raw = _NOTHING


class _Results(_Used, frozen=True, gc=False):
    results: msgspec.Raw = _NOTHING


_Body = TypeVar("_Body")


class _AnswerResponse(msgspec.Struct, Generic[_Body], frozen=True, gc=False):
    body: _Body


class _AnswerLine(msgspec.Struct, Generic[_Body], frozen=True, gc=False):
    response: _AnswerResponse[_Body]


class _Read(msgspec.Struct, frozen=True, gc=False):
    """Texts where the endpoint gives texts, an output where it gives something else."""

    texts: list[str | None] | None = None
    output: Any = None
    refusal: str | None = None
    cut: str | None = None


def _raw(value: msgspec.Raw) -> _Read | None:
    return _Read(output=value) if value else None


def _read_chat(body: _Chat) -> _Read | None:
    if not body.choices:
        return None
    first = body.choices[0]
    if len(body.choices) == 1:  # nearly always, and worth a tenth of the time of a merge
        return _Read(
            [_joined(first.message.content, "text")], None, first.message.refusal, first.finish_reason
        )
    refusal = next((choice.message.refusal for choice in body.choices if choice.message.refusal), None)
    texts = [_joined(choice.message.content, "text") for choice in body.choices]
    return _Read(texts, None, refusal, first.finish_reason)


def _read_completion(body: _Chat) -> _Read | None:
    return _Read([choice.text for choice in body.choices]) if body.choices else None


def _read_response(body: _Response) -> _Read:
    parts = [
        part
        for item in body.output
        if item.type == "message" and isinstance(item.content, list)
        for part in item.content
        if isinstance(part, dict)
    ]
    refusal = next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)
    cut = body.incomplete_details.reason if body.incomplete_details else None
    return _Read([_joined(parts, "output_text")], refusal=refusal, cut=cut)


def _joined(content: Any, kind: str) -> str | None:
    """Chat content is a text; some servers write it in parts, as the responses endpoint always does."""
    if content is None or isinstance(content, str):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == kind]
    return "".join(map(str, texts)) if texts else None


def _read_embeddings(body: _Embeddings) -> _Read | None:
    if not body.data:
        return None
    vectors = [datum.embedding for datum in sorted(body.data, key=lambda datum: datum.index)]
    return _Read(output=vectors[0] if len(vectors) == 1 else vectors)


_Reader = tuple[Any, "Callable[[Any], _Read | None]"]
_READERS: dict[str, _Reader] = {
    CHAT: (_Chat, _read_chat),
    COMPLETIONS: (_Chat, _read_completion),
    RESPONSES: (_Response, _read_response),
    EMBEDDINGS: (_Embeddings, _read_embeddings),
    MODERATIONS: (_Results, lambda body: _raw(body.results)),
    IMAGES: (_Data, lambda body: _raw(body.data)),
    IMAGE_EDITS: (_Data, lambda body: _raw(body.data)),
}


class AnswerReader:
    """
    Reads the bodies of one endpoint.

    :param kind: of the endpoint, such as ``chat/completions``.
    :param output: ``"text"`` for the text (embedding, moderation results, image data), or with a schema the
        value that the text holds; ``"body"`` for the whole body. Several choices or inputs make a list.
    :param schema: what each answer is checked against.
    """

    def __init__(self, kind: str, output: str = "text", schema: OutputSchema | None = None) -> None:
        self._kind = kind
        self._whole = output == "body" or kind not in _READERS
        self._schema = schema
        shape: Any
        shape, self._read = _READERS.get(kind, (_Used, lambda _body: _Read()))
        self._decode = msgspec.json.Decoder(shape).decode
        self._decode_line = msgspec.json.Decoder(_AnswerLine[shape]).decode
        self._lenient = msgspec.json.Decoder(shape, strict=False).decode

    def read_line(self, data: bytes, *, answered: bool) -> Answer:
        """
        Read a line of an output or error file.

        :param answered: whether the line is known to be a success; then it is decoded once, if as expected.
        :raises ValueError: if it is no result line.
        """
        if answered and not self._whole:
            try:
                return self._answer(self._decode_line(data).response.body, None)
            except msgspec.ValidationError:
                pass
        line = read_line(data)
        if line is None:
            raise ValueError("no result line")
        outcome = classify(line, self._kind)
        if outcome.status != "succeeded" or line.response is None:
            return Answer(outcome, None, None)
        return self.read(body_of(line.response))

    def read(self, body: msgspec.Raw) -> Answer:
        """Read the body of a successful answer. It never raises: a body of no known form is kept whole."""
        return self._answer(self._decoded(body), body)

    def _answer(self, decoded: Any, body: msgspec.Raw | None) -> Answer:
        # Without the body, what is of no known form is for the caller to read again as a whole.
        read = decoded and self._read(decoded)
        if read is None:
            if body is None:
                raise msgspec.ValidationError
            error = RowError("unexpected_answer", "The answer has not the form of its endpoint")
            return Answer(SUCCEEDED if self._whole else Outcome("failed", error=error), body, None)
        usage = decoded.usage and _usage(decoded.usage)
        whole = body if self._whole else None
        if read.refusal:
            return Answer(Outcome("failed", error=RowError("refusal", read.refusal)), whole, usage)
        output = read.output if read.texts is None else _one_or_all(read.texts)
        if self._schema is not None:
            output, problem = self._checked(read, self._schema, output)
            if problem is not None:
                invalid = Outcome("invalid_output", error=RowError("invalid_output", problem))
                return Answer(invalid, whole or output, usage)
        elif output is None and whole is None:
            return Answer(_no_text(read), None, usage)
        return Answer(SUCCEEDED, whole or output, usage)

    def _decoded(self, body: msgspec.Raw) -> Any:
        try:
            return self._decode(body)
        except msgspec.ValidationError:
            pass
        try:  # compatible servers: numbers as text, null for an empty list, a usage of their own
            fields = msgspec.json.decode(body)
            kept = {key: value for key, value in fields.items() if key != "usage" and value is not None}
            return self._lenient(msgspec.json.encode(kept))
        except (msgspec.ValidationError, AttributeError):
            return None

    @staticmethod
    def _checked(read: _Read, schema: OutputSchema, output: Any) -> tuple[Any, str | None]:
        """Return the values and None, or the output as it is and what is wrong with it."""
        values = []
        for text in read.texts or [None]:
            value, problem = (None, "the answer has no text") if text is None else schema.check(text)
            if problem is not None:
                cut = read.cut in _CUT
                return output, f"the answer was cut off ({read.cut}): {problem}" if cut else problem
            values.append(value)
        return _one_or_all(values), None


def _no_text(read: _Read) -> Outcome:
    why = f" ({read.cut})" if read.cut else ""
    return Outcome(
        "failed", error=RowError("no_text", f"The answer has no text{why}; output='body' keeps it")
    )


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _usage(used: _Usage) -> Usage:
    sent = used.prompt_tokens_details or used.input_tokens_details
    made = used.completion_tokens_details or used.output_tokens_details
    input_tokens = used.prompt_tokens or used.input_tokens or 0
    output_tokens = used.completion_tokens or used.output_tokens or 0
    return Usage(
        input_tokens,
        (sent and sent.cached_tokens) or 0,
        output_tokens,
        (made and made.reasoning_tokens) or 0,
        used.total_tokens or input_tokens + output_tokens,
    )


def usage_of(body: msgspec.Raw) -> Usage | None:
    """Return the tokens that a body of any endpoint reports, None if it reports none."""
    try:
        used = msgspec.json.decode(body, type=_Used).usage
    except msgspec.ValidationError:
        return None
    return None if used is None else _usage(used)
