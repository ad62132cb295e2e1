"""
Reads a batch's input file through once, as the service does after a batch is created.

https://developers.openai.com/api/docs/guides/batch#1-prepare-your-batch-file
"""

from __future__ import annotations

import time
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.models import MAX_EMBEDDING_INPUTS, MAX_FILE_BYTES, MAX_REQUESTS
from airflow_provider_openai_batches.devserver.store import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.devserver.store import StoredFile

MAX_ERRORS = 100
BREATH = 32
NEEDS_MODEL = {"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions"}


class Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Head(msgspec.Struct):
    model: str | None = None
    metadata: Any = None
    input: msgspec.Raw = msgspec.Raw()


decode_line = msgspec.json.Decoder(Line).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def digest(line: Line) -> bytes:
    """What makes two request lines the same request."""
    return blake2b(line.custom_id.encode() + b"\0" + bytes(line.body), digest_size=12).digest()


def tokens_of(body: msgspec.Raw) -> int:
    """The estimated prompt tokens of a request: four bytes of its body make one."""
    return max(1, len(memoryview(body)) // 4)


def breathe(number: int) -> None:
    """Let the event loop have the interpreter often, so that it answers quickly while a file is read."""
    if number % BREATH == 0:
        time.sleep(0)


def check_file(file: StoredFile, endpoint: str, *, seed: int, runs: Mapping[bytes, int]) -> Check:
    """
    Find what is wrong with an input file, and where its lines begin.

    :param seed: decides the order in which the requests will be done.
    :param runs: how often each request was run before, by :func:`digest`.
    """
    checker = _Checker(endpoint, runs)
    if file.wire.bytes > MAX_FILE_BYTES:
        checker.error("file_too_large", f"The batch input file is over {MAX_FILE_BYTES} bytes.")
        return checker.check
    checker.read(file)
    check = checker.check
    check.order.extend(range(check.total))
    Random(f"{seed}:{file.sha256}").shuffle(check.order)  # noqa: S311 - it must repeat, not be secret
    for place, index in enumerate(check.order if check.quirks else ()):
        quirk = check.quirks.get(index, "")
        if quirk.startswith("fail"):
            check.failing.append(place)
        elif quirk.startswith("expire"):
            check.expiring.append(place)
    return check


class _Checker:
    def __init__(self, endpoint: str, runs: Mapping[bytes, int]) -> None:
        self.check = Check()
        self._endpoint = endpoint
        self._runs = runs
        self._seen: set[str] = set()
        self._inputs = 0
        self._number = 0

    def error(self, code: str, message: str, *, line: int | None = None, param: str | None = None) -> None:
        if len(self.check.errors) < MAX_ERRORS:
            self.check.errors.append({"code": code, "line": line, "message": message, "param": param})

    def _line_error(self, code: str, message: str, param: str | None = None) -> None:
        self.error(code, message, line=self._number, param=param)

    def read(self, file: StoredFile) -> None:
        offset = 0
        with file.path.open("rb") as source:
            for self._number, raw in enumerate(source, 1):
                if raw.strip():
                    if self.check.total == MAX_REQUESTS:
                        self.error(
                            "too_many_tasks", f"The batch input file has over {MAX_REQUESTS} requests."
                        )
                        return
                    self.check.offsets.append(offset)
                    self._read_line(raw)
                offset += len(raw)
                breathe(self._number)
        if not self.check.total:
            self.error("empty_file", "The batch input file is empty. Give it at least one request.")
        if self._inputs > MAX_EMBEDDING_INPUTS:
            self.error("too_many_inputs", f"The batch has over {MAX_EMBEDDING_INPUTS} embedding inputs.")

    def _read_line(self, raw: bytes) -> None:
        try:
            line = decode_line(raw)
        except msgspec.ValidationError:
            return self._explain(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._line_error("invalid_json_line", "This line is not parseable as valid JSON.")
        if line.method != "POST":
            self._line_error("invalid_method", f"The method must be POST, not '{line.method}'.", "method")
        if line.url != self._endpoint:
            text = f"The url '{line.url}' does not match the endpoint of the batch, '{self._endpoint}'."
            self._line_error("url_mismatch", text, "url")
        if line.custom_id in self._seen:
            text = f"The custom_id '{line.custom_id}' is a duplicate of an earlier request's."
            self._line_error("duplicate_custom_id", text, "custom_id")
        self._seen.add(line.custom_id)
        return self._read_body(line)

    def _read_body(self, line: Line) -> None:
        try:
            head = _decode_head(line.body)
        except msgspec.DecodeError:
            return self._line_error("invalid_type", "The body must be an object; its model a string.", "body")
        if head.model is None and self._endpoint in NEEDS_MODEL:
            return self._line_error(
                "missing_required_parameter", "Missing required parameter: 'body.model'.", "body.model"
            )
        if self.check.model is None:
            self.check.model = head.model
        elif head.model != self.check.model:
            text = f"The model '{head.model}' does not match that of earlier requests, '{self.check.model}'."
            self._line_error("model_mismatch", text, "body.model")
        self.check.tokens += tokens_of(line.body)
        if self._endpoint == "/v1/embeddings":
            self._inputs += _count_inputs(head.input)
        if isinstance(head.metadata, dict) and (quirk := head.metadata.get("devserver")):
            self._note_quirk(line, str(quirk))
        return None

    def _note_quirk(self, line: Line, quirk: str) -> None:
        """A quirk that ends in ``*N`` applies to the first N runs of the request only."""
        quirk, _, times = quirk.partition("*")
        if not times.isdecimal() or self._runs.get(digest(line), 0) < int(times):
            self.check.quirks[self.check.total - 1] = quirk

    def _explain(self, raw: bytes) -> None:
        """A line that is JSON but no request: name the field."""
        value = msgspec.json.decode(raw)
        if not isinstance(value, dict):
            return self._line_error("invalid_json_line", "This line is not a JSON object.")
        for name in ("custom_id", "method", "url", "body"):
            if value.get(name) is None:
                text = f"Missing required parameter: '{name}'."
                return self._line_error("missing_required_parameter", text, name)
            if name != "body" and not isinstance(value[name], str):
                return self._line_error(
                    "invalid_type", f"Invalid type for '{name}': expected a string.", name
                )
        return self._line_error("invalid_json_line", "This line is not a request.")


def _count_inputs(raw: msgspec.Raw) -> int:
    value = msgspec.json.decode(raw) if bytes(raw) else None
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return len(value)
    return 1
