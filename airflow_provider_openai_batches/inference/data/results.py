"""
Answers: what the model said in reply to a request, and the tokens that it took.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from airflow_provider_openai_batches.api.answers import CUT_OFF, Content, is_nothing
from airflow_provider_openai_batches.api.retry import UNREADABLE
from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.inference.data.lines import body_of, classify, read_line
from airflow_provider_openai_batches.inference.data.outcomes import SUCCEEDED, Outcome, RowError
from airflow_provider_openai_batches.inference.data.tolerant import clean, read_json

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.endpoints import EndpointSpec
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

_EMPTY = Content()


class Answer(msgspec.Struct, frozen=True, gc=False):
    """
    What a row gets.

    :param output: ``msgspec.Raw``, at any depth, where JSON is passed on as it came.
    :param finish_reason: why the answer was cut off; None if it was not.
    :param source: where it is from, one of :data:`.SOURCES`; None if nobody has asked that, or nothing came.
    """

    outcome: Outcome
    output: Any
    usage: Usage | None
    finish_reason: str | None = None
    source: str | None = None


_Body = TypeVar("_Body")


class _AnswerResponse(msgspec.Struct, Generic[_Body], frozen=True, gc=False):
    body: _Body


class _AnswerLine(msgspec.Struct, Generic[_Body], frozen=True, gc=False):
    response: _AnswerResponse[_Body]


class AnswerReader:
    """
    Reads the result lines of one endpoint.

    :param output: ``"text"`` for the text (embedding, moderation results, image data), or with a schema the
        value that the text holds; ``"body"`` for the whole body. Several choices or inputs make a list.
    :param schema: what each answer is checked against.
    """

    def __init__(self, spec: EndpointSpec, output: str = "text", schema: OutputSchema | None = None) -> None:
        self._spec, self._schema = spec, schema
        self._whole = output == "body" or spec.read is None
        self._read = spec.read or (lambda _body: _EMPTY)
        shape: Any = spec.answer
        self._decode = msgspec.json.Decoder(shape).decode
        self._decode_line = msgspec.json.Decoder(_AnswerLine[shape]).decode
        self._lenient = msgspec.json.Decoder(shape, strict=False).decode

    def read_line(self, data: bytes, *, answered: bool) -> Answer:
        """
        Read a line of an output or error file.

        :param answered: whether the line is known to be a success; if it also has the expected form, it is
            decoded only once.
        :raises ValueError: if it is not a result line.
        """
        if answered and not self._whole:
            try:
                return self._answer(self._decode_line(data).response.body, None)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        line = read_line(data)
        if line is None:
            raise ValueError("not a result line")
        outcome = classify(line, self._spec)
        if outcome.status != "succeeded" or line.response is None:
            is_unreadable = outcome.error is not None and outcome.error.code == UNREADABLE
            return Answer(outcome, data.decode("utf-8", "replace").strip() if is_unreadable else None, None)
        return self.read(body_of(line.response))

    def read(self, body: msgspec.Raw) -> Answer:
        """Read the body of a successful answer. It never raises: a body of an unknown form is kept whole."""
        if self._whole and is_nothing(body):
            error = RowError("no_value", f"The answer has no body, but {bytes(body).decode()}")
            return Answer(Outcome("failed", error=error), body, None)
        return self._answer(self._decoded(body), body)

    def _answer(self, decoded: Any, body: msgspec.Raw | None) -> Answer:
        # Without the body as it came, an unknown form raises: the caller then reads the whole line again.
        content = decoded and self._read(decoded)
        if content is None:
            if body is None:
                raise msgspec.ValidationError
            error = RowError("unexpected_answer", "The answer does not have the form of its endpoint")
            return Answer(SUCCEEDED if self._whole else Outcome("failed", error=error), clean(body), None)
        usage = decoded.usage and Usage.of_answer(decoded.usage)
        whole = clean(body) if self._whole and body else None
        if content.refusal:
            return Answer(Outcome("failed", error=RowError("refusal", content.refusal)), whole, usage)
        cut = content.finish_reason if content.finish_reason in CUT_OFF else None
        if cut is not None and content.is_empty:
            problem = f"The answer is empty, because it was cut off ({cut}): {self._way_out(cut)}"
            return Answer(Outcome("failed", error=RowError("truncated", problem)), whole, usage, cut)
        output = content.output if content.texts is None else _one_or_all(content.texts)
        if type(output) is msgspec.Raw:
            output = clean(output)
        outcome = SUCCEEDED
        if self._schema is not None:
            output, outcome = self._checked(content, self._schema, output, cut)
        elif whole is None and type(output) is not str:
            outcome = _outcome_of(content, output)
        return Answer(outcome, whole or output, usage, cut)

    def _checked(
        self, content: Content, schema: OutputSchema, output: Any, cut: str | None
    ) -> tuple[Any, Outcome]:
        output, problem = _value(content, schema, output)
        if problem is None:
            return output, SUCCEEDED
        if cut is not None:
            problem = f"the answer was cut off ({cut}): {problem}; {self._way_out(cut)}"
        return output, Outcome("invalid_output", error=RowError("invalid_output", problem))

    def _way_out(self, cut: str) -> str:
        if cut == "content_filter":
            return "the service's content filter stopped it"
        return f"raise {self._spec.length_fields[0]}, which counts the tokens of the reasoning too"

    def _decoded(self, body: msgspec.Raw) -> Any:
        try:
            return self._decode(body)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            pass
        try:  # compatible servers: numbers as text, null for an empty list, a usage of their own
            fields = read_json(body)
            try:
                return self._decode(msgspec.json.encode(fields))
            except msgspec.ValidationError:
                kept = {key: value for key, value in fields.items() if key != "usage" and value is not None}
                return self._lenient(msgspec.json.encode(kept))
        except (ValueError, msgspec.MsgspecError, RecursionError, AttributeError):
            return None


def _value(content: Content, schema: OutputSchema, output: Any) -> tuple[Any, str | None]:
    """Return the values and None, or the output as it is and what is wrong with it."""
    values = []
    for text in content.texts or [None]:
        value, problem = (None, "the answer has no text") if text is None else schema.check(text)
        if problem is not None:
            for draft in content.drafts:
                value, draft_problem = schema.check(draft)
                if draft_problem is None:
                    return value, None
            return output, problem
        values.append(value)
    return _one_or_all(values), None


def _outcome_of(content: Content, output: Any) -> Outcome:
    """Make sure that there is a value where the row says that it succeeded."""
    if content.problem is not None:
        return Outcome("failed", error=RowError("no_value", content.problem))
    if output is None or (content.texts and not any(text is not None for text in content.texts)):
        why = f" ({content.finish_reason})" if content.finish_reason else ""
        problem = f"The answer has no text{why}; output='body' keeps it"
        return Outcome("failed", error=RowError("no_text", problem))
    return SUCCEEDED


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values
