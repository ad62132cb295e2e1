"""
Checks a batch's input file, as the service does while a batch is ``validating``.

https://developers.openai.com/api/docs/guides/batch#1-prepare-your-batch-file
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS, inputs_of
from airflow_provider_openai_batches.devserver.errors import NOT_JSON
from airflow_provider_openai_batches.devserver.input_lines import (
    decode_line,
    digest,
    estimated_tokens,
    let_others_run,
)
from airflow_provider_openai_batches.devserver.limits import MAX_INPUT_FILE_BYTES, MAX_REQUESTS
from airflow_provider_openai_batches.devserver.store import InputCheck

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_openai_batches.devserver.input_lines import InputLine
    from airflow_provider_openai_batches.devserver.store import StoredFile

MAX_ERRORS = 100
NO_JSON_LINE = "This line is not parseable as valid JSON."


class _Head(msgspec.Struct):
    model: str | None = None
    metadata: Any = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class PassingFailures:
    """
    Decides which requests fail in passing.

    The same request fails or succeeds in the same run of it, whatever batch it is in.

    :param share: the fraction of the runs that fail.
    :param statuses: the HTTP statuses with which they fail.
    """

    def __init__(self, share: float, statuses: Sequence[int], seed: int) -> None:
        self.share, self._statuses, self._seed = share, statuses, seed

    def quirk(self, custom_id: str, runs: int) -> str:
        """:param runs: how often the request was executed before."""
        text = f"{self._seed}\0{runs}\0{custom_id}".encode()
        drawn = int.from_bytes(blake2b(text, digest_size=8).digest())
        if drawn >= self.share * 2**64:
            return ""
        return f"fail:{self._statuses[drawn % len(self._statuses)]}"


def check_file(
    file: StoredFile,
    endpoint: str,
    *,
    seed: int,
    runs: Mapping[bytes, int],
    failures: PassingFailures,
) -> InputCheck:
    """
    Find what is wrong with an input file, and where its lines begin.

    :param seed: decides the order in which the requests are executed.
    :param runs: how often each request was executed before, by its digest.
    """
    checker = _Checker(endpoint, runs, failures)
    if file.wire.bytes > MAX_INPUT_FILE_BYTES:
        checker.error("file_too_large", f"The batch input file is over {MAX_INPUT_FILE_BYTES} bytes.")
        return checker.check
    checker.read(file)
    check = checker.check
    check.order.extend(range(check.total))
    Random(f"{seed}:{file.sha256}").shuffle(check.order)
    for place, index in enumerate(check.order if check.quirks else ()):
        quirk = check.quirks.get(index, "")
        if quirk.startswith("fail"):
            check.failing.append(place)
        elif quirk.startswith("expire"):
            check.expiring.append(place)
    return check


class _Checker:
    def __init__(self, endpoint: str, runs: Mapping[bytes, int], failures: PassingFailures) -> None:
        self.check = InputCheck()
        self._endpoint = ENDPOINTS[endpoint]
        self._runs = runs
        self._failures = failures
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
                        text = f"The batch input file has over {MAX_REQUESTS} requests."
                        return self.error("too_many_tasks", text)
                    self.check.offsets.append(offset)
                    self._read_line(raw)
                offset += len(raw)
                let_others_run(self._number)
        if not self.check.total:
            self.error("empty_file", "The batch input file is empty. It must have at least one request.")
        limit = self._endpoint.max_inputs
        if limit is not None and self._inputs > limit:
            self.error("too_many_inputs", f"The requests of the batch have over {limit} inputs in total.")
        return None

    def _read_line(self, raw: bytes) -> None:
        try:
            line = decode_line(raw)
        except msgspec.ValidationError:
            return self._explain(raw)
        except NOT_JSON:
            return self._line_error("invalid_json_line", NO_JSON_LINE)
        if line.method != "POST":
            self._line_error("invalid_method", f"The method must be POST, not '{line.method}'.", "method")
        if line.url != self._endpoint.path:
            text = f"The url '{line.url}' does not match the endpoint of the batch, '{self._endpoint.path}'."
            self._line_error("url_mismatch", text, "url")
        if line.custom_id in self._seen:
            text = f"An earlier request has the same custom_id, '{line.custom_id}'."
            self._line_error("duplicate_custom_id", text, "custom_id")
        self._seen.add(line.custom_id)
        return self._read_body(line)

    def _read_body(self, line: InputLine) -> None:
        try:
            head = _decode_head(line.body)
        except msgspec.DecodeError:
            text = "The body must be an object, and its model a string."
            return self._line_error("invalid_type", text, "body")
        if head.model is None and self._endpoint.needs_model:
            text = "Missing required parameter: 'body.model'."
            return self._line_error("missing_required_parameter", text, "body.model")
        if self.check.model is None:
            self.check.model = head.model
        elif head.model != self.check.model:
            text = f"The model '{head.model}' does not match that of earlier requests, '{self.check.model}'."
            self._line_error("model_mismatch", text, "body.model")
        self.check.tokens += estimated_tokens(line.body)
        if self._endpoint.max_inputs is not None:
            content = _decode_fields(line.body).get(self._endpoint.content)
            self._inputs += 1 if content is None else len(inputs_of(msgspec.json.decode(content)))
        if isinstance(head.metadata, dict) and (quirk := head.metadata.get("devserver")):
            self._note_quirk(line, str(quirk))
        elif self._failures.share:
            self._note_failure(line)
        return None

    def _note_quirk(self, line: InputLine, quirk: str) -> None:
        """A quirk that ends in ``*N`` applies to the first N runs of the request only."""
        quirk, _, times = quirk.partition("*")
        if not times.isdecimal() or self._runs.get(digest(line), 0) < int(times):
            self.check.quirks[self.check.total - 1] = quirk

    def _note_failure(self, line: InputLine) -> None:
        if quirk := self._failures.quirk(line.custom_id, self._runs.get(digest(line), 0)):
            self.check.quirks[self.check.total - 1] = quirk

    def _explain(self, raw: bytes) -> None:
        """The line is not a request: name the field that is at fault."""
        try:
            value = msgspec.json.decode(raw)
        except NOT_JSON:
            return self._line_error("invalid_json_line", NO_JSON_LINE)
        if not isinstance(value, dict):
            return self._line_error("invalid_json_line", "This line is not a JSON object.")
        for name in ("custom_id", "method", "url", "body"):
            if value.get(name) is None:
                text = f"Missing required parameter: '{name}'."
                return self._line_error("missing_required_parameter", text, name)
            if name != "body" and not isinstance(value[name], str):
                text = f"Invalid type for '{name}': expected a string."
                return self._line_error("invalid_type", text, name)
        return self._line_error("invalid_json_line", "This line is not a request.")
