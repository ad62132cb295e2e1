"""
Checks of arguments, and of input files line by line, before anything is sent.

They are strict, because the service reports such errors late or not at all. Limits:
https://developers.openai.com/api/reference/resources/batches/methods/create
"""

from __future__ import annotations

import hashlib
import re
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec

from airflow_provider_openai_batches.api.endpoints import SPECS, spec_of
from airflow_provider_openai_batches.api.models import (
    MAX_EMBEDDING_INPUTS,
    MAX_FILE_BYTES,
    MAX_REQUESTS,
    UNREADABLE,
)
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FailOn = Literal["none", "any"] | float

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MIN_EXPIRY = 3_600
MAX_EXPIRY = 2_592_000
MAX_PAGE = 100
_READ_BYTES = 1 << 20


def check_id(value: object, field: str) -> str:
    """Refuse an id that is empty, or that would lead to another path."""
    if not isinstance(value, str) or not value.strip() or value in {"None", "null"}:
        raise InvalidInputError(
            f"{field} is {value!r}; it must be an id such as 'batch_abc123'. "
            "If it comes from another task's XCom, check that the other task returned one."
        )
    if value in {".", ".."} or not value.isprintable() or any(sign in value for sign in "/\\ "):
        raise InvalidInputError(f"{field} is {value!r}; an id has no slash, space or control character.")
    return value


def is_id(value: str) -> bool:
    """Whether a service's id would pass :func:`check_id`."""
    try:
        return bool(check_id(value, "id"))
    except InvalidInputError:
        return False


def result_file_name(batch_id: str, kind: str) -> str:
    """
    Return the name of a batch's downloaded file.

    :param kind: ``output`` or ``errors``.
    :raises InvalidInputError: if the id cannot be part of a file's name.
    """
    return f"{check_id(batch_id, 'batch id')}-{kind}.jsonl"


def check_endpoint(endpoint: object) -> str:
    """
    Refuse anything but a path like ``/v1/responses``; compatible servers have more than OpenAI.

    Azure has those of OpenAI without ``/v1`` too.
    """
    is_path = isinstance(endpoint, str) and (
        re.fullmatch(r"/v1(/[A-Za-z0-9_.-]+)+", endpoint) or endpoint.removeprefix("/") in SPECS
    )
    if not isinstance(endpoint, str) or not is_path or "/." in endpoint or not endpoint.startswith("/"):
        raise InvalidInputError(
            f"endpoint is {endpoint!r}; it must be a path such as '/v1/responses', '/v1/chat/completions' "
            "or '/v1/embeddings'."
        )
    return endpoint


def check_interval(value: object, field: str) -> float:
    """Refuse an interval that is not a positive number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidInputError(f"{field} is {value!r}; it must be a number of seconds above 0.")
    return float(value)


def check_amount(value: object, field: str) -> float:
    """Refuse anything but a finite amount of US dollars above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise InvalidInputError(f"{field} is {value!r}; it must be an amount of US dollars above 0.")
    return float(value)


def check_text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{field} is {value!r}; it must be a string such as '24h'.")
    return value


def check_limit(limit: object) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError(f"limit is {limit!r}; it must be a whole number from 1 to {MAX_PAGE}.")
    return limit


def check_metadata(metadata: object) -> dict[str, str]:
    """Refuse metadata beyond the service's limits: 16 pairs, keys of 64 and values of 512 characters."""
    if not hasattr(metadata, "items"):
        raise InvalidInputError(f"metadata is a {type(metadata).__name__}; it must be a dict of strings.")
    pairs = dict(metadata.items())
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidInputError(
            f"metadata has {len(pairs)} pairs, including those that this provider adds "
            f"({', '.join(pairs)}); the service takes {MAX_METADATA_PAIRS}. Remove some."
        )
    for key, value in pairs.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInputError(f"metadata[{key!r}] is {value!r}; keys and values must be strings.")
        if not key or len(key) > MAX_METADATA_KEY:
            raise InvalidInputError(
                f"metadata key {key!r} has {len(key)} characters; the service takes 1 to {MAX_METADATA_KEY}."
            )
        if len(value) > MAX_METADATA_VALUE:
            raise InvalidInputError(
                f"metadata[{key!r}] has {len(value)} characters; the service takes {MAX_METADATA_VALUE}."
            )
    return pairs


def check_expiry(value: object, field: str) -> dict[str, Any]:
    """Refuse a bad expiry, and return seconds as the service's ``{"anchor": "created_at", "seconds": …}``."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"anchor": "created_at", "seconds": value}
    if not isinstance(value, dict) or set(value) != {"anchor", "seconds"} or value["anchor"] != "created_at":
        raise InvalidInputError(
            f"{field} is {value!r}; give seconds, or {{'anchor': 'created_at', 'seconds': …}}."
        )
    seconds = value["seconds"]
    if not isinstance(seconds, int) or not MIN_EXPIRY <= seconds <= MAX_EXPIRY:
        raise InvalidInputError(
            f"{field} is {seconds!r} seconds; the service takes "
            f"{MIN_EXPIRY} (an hour) to {MAX_EXPIRY} (30 days)."
        )
    return dict(value)


def check_count(value: object, name: str, least: int = 1, most: int | None = None) -> int:
    """Refuse anything but a whole number from ``least`` to ``most``."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, int) or not is_whole or value < least or (most is not None and value > most):
        span = f"{least} or more" if most is None else f"{least} to {most:,}"
        raise InvalidInputError(f"{name} is {value!r}; it must be a whole number, {span}.")
    return value


def check_fail_on(value: object) -> FailOn:
    """Refuse anything but ``none``, ``any`` or a fraction of the rows."""
    if value == "none":
        return "none"
    if value == "any":
        return "any"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise InvalidInputError(
        f"fail_on is {value!r}; it must be 'none', 'any', or a fraction of the rows from 0 to less than 1."
    )


# -- input files ---------------------------------------------------------------------------------------------


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


def check_input(lines: IO[bytes] | Iterable[bytes], endpoint: str, name: str) -> InputSummary:
    """
    Read a whole input file, and refuse what the service would refuse later.

    https://developers.openai.com/api/docs/guides/batch#1-prepare-your-batch-file

    :param lines: the file, or its lines with their line ends.
    :param name: the file's name, for messages.
    :raises InvalidInputError: if the file is not valid; the message names file and line.
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

    def run(self, source: Any) -> InputSummary:
        digest, size, number = hashlib.sha256(), 0, 0
        lines = lines_of(source) if hasattr(source, "read") else source
        for number, line in enumerate(lines, 1):
            digest.update(line)
            size += len(line)
            if size > MAX_FILE_BYTES:
                raise self._refused(number, f"the file is larger than {MAX_FILE_BYTES:,} bytes; split it")
            if number > MAX_REQUESTS:
                raise self._refused(number, f"the file has more than {MAX_REQUESTS:,} requests; split it")
            self._check(number, line)
        if not number:
            raise InvalidInputError(f"{self._name} is empty: it must hold one request per line.")
        return InputSummary(number, size, digest.hexdigest(), self._model)

    def _check(self, number: int, text: bytes) -> None:
        if trouble := _trouble_with_bytes(text, is_first=number == 1):
            raise self._refused(number, trouble)
        try:
            line = self._decoder.decode(text)
        except UNREADABLE as error:
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
                f"model is {body.model!r}, but on line 1 it is {self._model!r}; all requests need the same",
            )
        if self._count_inputs:
            self._inputs += self._count_inputs(body.input)
            if self._inputs > MAX_EMBEDDING_INPUTS:
                raise self._refused(
                    number, f"the file has more than {MAX_EMBEDDING_INPUTS:,} embedding inputs"
                )

    def _refused(self, number: int, what: str) -> InvalidInputError:
        return InvalidInputError(f"{self._name}, line {number}: {what}.")


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """
    Yield the lines of a file with their ends. A line longer than a whole file may be is cut, and is the last.

    There may be no line ends in it, and ``readline()`` takes no size in the file objects of stores.
    """
    begun: list[bytes] = []
    size = 0
    while size <= MAX_FILE_BYTES and (piece := file.read(_READ_BYTES)):
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join((*begun, end, b"\n"))
            begun.clear()
            size = 0
        begun.append(rest)
        size += len(rest)
    if size:
        yield b"".join(begun)


# How files begin that are not UTF-8 text, or not as the service wants it.
_STARTS = (
    (b"\xef\xbb\xbf", "the file begins with a byte order mark (BOM); save it as UTF-8 without one"),
    (b"\xff\xfe", "the file is UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "the file is UTF-16; save it as UTF-8"),
    (b"\x1f\x8b", "the file is compressed with gzip; decompress it first"),
    (b"PK\x03\x04", "the file is a zip archive; unpack it first"),
    (b"PAR1", "the file is Parquet; it must be JSONL, one request a line"),
)


def _trouble_with_bytes(text: bytes, *, is_first: bool) -> str | None:
    """Say why a line cannot be UTF-8 text; the service would refuse the file, or misread its letters."""
    for start, trouble in _STARTS if is_first else ():
        if text.startswith(start):
            return trouble
    if text.isascii() and b"\0" not in text:
        return None
    if b"\0" in text:
        return "the line has NUL bytes: is the file UTF-16? Save it as UTF-8"
    try:
        text.decode()
    except UnicodeDecodeError as error:
        byte = text[error.start]
        return (
            f"byte {error.start + 1} of the line (0x{byte:02x}) is not UTF-8: is the file Latin-1 or "
            "Windows-1252? Save it as UTF-8"
        )
    return None


def _what_is_wrong(text: bytes, error: Exception) -> str:
    if not text.strip():
        return "the line is empty; each line must be a request"
    return f"not a request line like {{custom_id, method, url, body}}: {error}"
