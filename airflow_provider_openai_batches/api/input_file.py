"""Checks an input file line by line before a byte of it is sent."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.models import MAX_EMBEDDING_INPUTS, MAX_FILE_BYTES, MAX_REQUESTS
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable


class InputSummary(msgspec.Struct, frozen=True):
    """What an input file holds; ``sha256`` is that of its bytes."""

    requests: int
    bytes: int
    sha256: str
    model: str | None


class _Body(msgspec.Struct):
    model: str | None = None
    input: Any = None


class _Line(msgspec.Struct):
    custom_id: str
    url: str
    body: _Body
    method: str = "POST"


def check_input(lines: Iterable[bytes], endpoint: str, name: str) -> InputSummary:
    """
    Read a whole input file, and refuse what the service would refuse later.

    https://developers.openai.com/api/docs/guides/batch#1-prepare-your-batch-file

    :param lines: the file's lines with their line ends.
    :param name: the file's name, for messages.
    :raises InvalidInputError: with file and line.
    """
    return _Checker(endpoint, name).run(lines)


class _Checker:
    def __init__(self, endpoint: str, name: str) -> None:
        self._endpoint = endpoint
        self._name = name
        self._count_inputs = spec_of(endpoint).count_inputs
        self._decoder = msgspec.json.Decoder(_Line)
        self._first_line_of: dict[str, int] = {}
        self._inputs = 0
        self._model: str | None = None

    def run(self, lines: Iterable[bytes]) -> InputSummary:
        digest, size, number = hashlib.sha256(), 0, 0
        for number, line in enumerate(lines, 1):
            digest.update(line)
            size += len(line)
            if size > MAX_FILE_BYTES:
                raise self._refused(number, f"the file is larger than {MAX_FILE_BYTES:,} bytes; split it")
            if number > MAX_REQUESTS:
                raise self._refused(number, f"the file has more than {MAX_REQUESTS:,} requests; split it")
            self._check(number, line)
        if not number:
            raise InvalidInputError(f"{self._name} is empty: it must hold one request a line.")
        return InputSummary(number, size, digest.hexdigest(), self._model)

    def _check(self, number: int, text: bytes) -> None:
        try:
            line = self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._refused(number, _what_is_wrong(text, error)) from None
        if not line.custom_id:
            raise self._refused(number, "custom_id is empty")
        if line.method != "POST":
            raise self._refused(number, f"method is {line.method!r}; it must be 'POST'")
        if line.url != self._endpoint:
            raise self._refused(
                number,
                f"url is {line.url!r}, but the batch's endpoint is {self._endpoint!r}; they must be equal",
            )
        first = self._first_line_of.setdefault(line.custom_id, number)
        if first != number:
            raise self._refused(number, f"custom_id {line.custom_id!r} is already used on line {first}")
        self._check_body(number, line.body)

    def _check_body(self, number: int, body: _Body) -> None:
        if number == 1:
            self._model = body.model
        elif body.model != self._model:
            raise self._refused(
                number,
                f"model is {body.model!r}, on line 1 it is {self._model!r}; all requests need the same",
            )
        if self._count_inputs:
            self._inputs += self._count_inputs(body.input)
            if self._inputs > MAX_EMBEDDING_INPUTS:
                raise self._refused(
                    number, f"the file has more than {MAX_EMBEDDING_INPUTS:,} embedding inputs"
                )

    def _refused(self, number: int, what: str) -> InvalidInputError:
        return InvalidInputError(f"{self._name}, line {number}: {what}.")


def _what_is_wrong(text: bytes, error: Exception) -> str:
    if not text.strip():
        return "the line is empty; each line must be a request"
    return f"not a request line like {{custom_id, method, url, body}}: {error}"
