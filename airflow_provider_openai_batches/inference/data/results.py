"""
Result lines: what became of a request, what the model answered, and the tokens that it took.

https://developers.openai.com/api/docs/guides/batch#5-retrieve-the-results
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec

from airflow_provider_openai_batches.api.endpoints import AnyBody, Content
from airflow_provider_openai_batches.api.retry import UNREADABLE, is_http_status, is_success
from airflow_provider_openai_batches.inference.data import outcomes
from airflow_provider_openai_batches.inference.data.outcomes import MISSING, SUCCEEDED, Outcome, RowError
from airflow_provider_openai_batches.inference.data.tolerant import (
    UnreadableError,
    clean,
    glimpse,
    read_json,
)

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.endpoints import EndpointSpec, ReportedUsage
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

_NULL = msgspec.Raw(b"null")
_EMPTY = Content()
_CUT_OFF = frozenset({"length", "max_output_tokens"})


class RawResponse(msgspec.Struct, frozen=True, gc=False):
    status_code: int | None = None
    body: msgspec.Raw = _NULL


class LineError(msgspec.Struct, frozen=True, gc=False):
    code: str | None = None
    message: str | None = None
    type: str | None = None


class RawLine(msgspec.Struct, frozen=True, gc=False):
    """A line of an output or error file; its body is not decoded."""

    is_cut: ClassVar[bool] = False
    custom_id: str
    response: RawResponse | None = None
    error: LineError | None = None


class CutLine(RawLine, frozen=True, gc=False):
    """A line that is not JSON, but says whose it is."""

    is_cut: ClassVar[bool] = True


_decode_line = msgspec.json.Decoder(RawLine).decode


def read_line(data: bytes) -> RawLine | None:
    """Read one line, tolerantly; None if it does not say whose it is."""
    try:
        return _decode_line(data)
    except (ValueError, RecursionError):
        pass
    try:
        return _salvage(read_json(data))
    except (UnreadableError, RecursionError):
        return _cut_line(data)


def _cut_line(data: bytes) -> CutLine | None:
    """Read what is left: an answer that has begun was paid for, unless its status is that of a failure."""
    seen = glimpse(data)
    if seen is None:
        return None
    custom_id, status = seen
    if status is not None and not is_success(status):
        return CutLine(custom_id, RawResponse(status), LineError(None, "The line with the error is not JSON"))
    said = "An answer came, but its line is not JSON; it is kept as output, and in unreadable.txt"
    return CutLine(custom_id, None, LineError(UNREADABLE, said))


def _salvage(document: Any) -> RawLine | None:
    """Read the fields one by one: compatible servers write some of them in other types."""
    if not isinstance(document, dict) or document.get("custom_id") is None:
        return None
    response, error = document.get("response"), document.get("error")
    if not isinstance(error, dict):
        error = None if error is None else {"message": str(error)}
    if response is not None and not isinstance(response, dict):
        error, response = error or {"message": str(response)}, None
    said = (_text((error or {}).get(name)) for name in LineError.__struct_fields__)
    return RawLine(
        str(document["custom_id"]),
        None if response is None else RawResponse(_status(response), _raw(response.get("body"))),
        None if error is None else LineError(*said),
    )


def _status(response: dict[str, Any]) -> int | None:
    try:
        return int(response["status_code"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None


def _readable(body: msgspec.Raw) -> Any:
    try:
        return read_json(body)
    except UnreadableError:
        return None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def body_of(response: RawResponse) -> msgspec.Raw:
    """Return the body as JSON; some servers write it as a string that holds the JSON."""
    body = response.body
    if bytes(memoryview(body)[:1]) != b'"':
        return body
    try:  # encoded again, because the text may have line breaks
        return _raw(read_json(read_json(body)))
    except (UnreadableError, RecursionError):
        return body


def classify(line: RawLine, spec: EndpointSpec) -> Outcome:
    """Say what became of a request according to the service; the content of its answer is not read."""
    response = line.response
    if response is None:
        return MISSING if line.error is None else outcomes.never_ran(msgspec.structs.asdict(line.error))
    status = response.status_code
    if status is None:
        is_good = line.error is None
    elif is_http_status(status):
        is_good = is_success(status)
    else:  # a number that says nothing, so that the body has to
        is_good = _holds_answer(response, spec)
    if not is_good:
        error = msgspec.structs.asdict(line.error or LineError())
        return outcomes.refused(status, _readable(body_of(response)), error)
    if spec.can_fail_inside or status is None:
        return _outcome_inside(response)
    return SUCCEEDED


def _holds_answer(response: RawResponse, spec: EndpointSpec) -> bool:
    try:
        content = spec.read and spec.read(msgspec.json.decode(body_of(response), type=spec.answer))
    except (ValueError, RecursionError):
        return False
    return bool(content and (any(content.texts or ()) or content.output is not None))


class _Status(msgspec.Struct, frozen=True):
    """The part of a body that says whether it is a failure."""

    status: Any = None
    error: Any = None


_decode_status = msgspec.json.Decoder(_Status).decode


def _outcome_inside(response: RawResponse) -> Outcome:
    try:
        body = _decode_status(body_of(response))
    except (ValueError, RecursionError):  # not an object, or with bytes that only a tolerant reader takes
        fields = _readable(body_of(response))
        body = _Status(fields.get("status"), fields.get("error")) if isinstance(fields, dict) else _Status()
    if body.status != "failed" and (response.status_code is not None or not body.error):
        return SUCCEEDED
    return outcomes.failed_inside(response.status_code or HTTPStatus.OK, body.error)


class Usage(msgspec.Struct, gc=False):
    """Token counts, under the names of the responses endpoint for every endpoint."""

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


def _usage(reported: ReportedUsage) -> Usage:
    sent = reported.prompt_tokens_details or reported.input_tokens_details
    made = reported.completion_tokens_details or reported.output_tokens_details
    input_tokens = reported.prompt_tokens or reported.input_tokens or 0
    output_tokens = reported.completion_tokens or reported.output_tokens or 0
    return Usage(
        input_tokens,
        (sent and sent.cached_tokens) or 0,
        output_tokens,
        (made and made.reasoning_tokens) or 0,
        reported.total_tokens or input_tokens + output_tokens,
    )


def usage_of(body: msgspec.Raw) -> Usage | None:
    """Return the tokens that a body of any endpoint reports, None if it reports none."""
    try:
        reported = msgspec.json.decode(body, type=AnyBody).usage
    except (ValueError, RecursionError):
        return None
    return None if reported is None else _usage(reported)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a row gets; ``output`` is ``msgspec.Raw``, at any depth, where JSON is passed on as it came."""

    outcome: Outcome
    output: Any
    usage: Usage | None


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
        return self._answer(self._decoded(body), body)

    def _answer(self, decoded: Any, body: msgspec.Raw | None) -> Answer:
        # Without the body as it came, an unknown form raises: the caller then reads the whole line again.
        content = decoded and self._read(decoded)
        if content is None:
            if body is None:
                raise msgspec.ValidationError
            error = RowError("unexpected_answer", "The answer does not have the form of its endpoint")
            return Answer(SUCCEEDED if self._whole else Outcome("failed", error=error), clean(body), None)
        usage = decoded.usage and _usage(decoded.usage)
        whole = clean(body) if self._whole and body else None
        if content.refusal:
            return Answer(Outcome("failed", error=RowError("refusal", content.refusal)), whole, usage)
        output = content.output if content.texts is None else _one_or_all(content.texts)
        if type(output) is msgspec.Raw:
            output = clean(output)
        if self._schema is not None:
            output, problem = _checked(content, self._schema, output)
            if problem is not None:
                invalid = Outcome("invalid_output", error=RowError("invalid_output", problem))
                return Answer(invalid, whole or output, usage)
        elif output is None and whole is None:
            return Answer(_no_text(content), None, usage)
        return Answer(SUCCEEDED, whole or output, usage)

    def _decoded(self, body: msgspec.Raw) -> Any:
        try:
            return self._decode(body)
        except (ValueError, RecursionError):
            pass
        try:  # compatible servers: numbers as text, null for an empty list, a usage of their own
            fields = read_json(body)
            try:
                return self._decode(_raw(fields))
            except msgspec.ValidationError:
                kept = {key: value for key, value in fields.items() if key != "usage" and value is not None}
                return self._lenient(msgspec.json.encode(kept))
        except (ValueError, RecursionError, AttributeError):
            return None


def _checked(content: Content, schema: OutputSchema, output: Any) -> tuple[Any, str | None]:
    """Return the values and None, or the output as it is and what is wrong with it."""
    values = []
    for text in content.texts or [None]:
        value, problem = (None, "the answer has no text") if text is None else schema.check(text)
        if problem is not None:
            reason = content.finish_reason
            return output, f"the answer was cut off ({reason}): {problem}" if reason in _CUT_OFF else problem
        values.append(value)
    return _one_or_all(values), None


def _no_text(content: Content) -> Outcome:
    why = f" ({content.finish_reason})" if content.finish_reason else ""
    return Outcome(
        "failed", error=RowError("no_text", f"The answer has no text{why}; output='body' keeps it")
    )


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values
