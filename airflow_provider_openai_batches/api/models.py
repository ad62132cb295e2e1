"""
The API's objects as msgspec structs: strict in what is sent, tolerant in what is read.

Unknown fields are ignored, missing fields and ``null`` become None, an unknown status counts as still
running, and a field of the wrong type becomes None instead of an error: compatible servers differ in all of
these.

https://developers.openai.com/api/reference/resources/batches
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

TERMINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
# The ends that can leave answers, which are paid for.
_WITH_ANSWERS = frozenset({"completed", "expired", "cancelled"})
# Other servers' words, in small letters, for what OpenAI calls otherwise.
_OTHER_WORDS = {
    "canceled": "cancelled",
    "canceling": "cancelling",
    "complete": "completed",
    "succeeded": "completed",
    "success": "completed",
    "error": "failed",
    "timeout": "expired",
    "progress": "in_progress",
    "processing": "in_progress",
    "running": "in_progress",
}
# Times above these are nanoseconds, microseconds, milliseconds: as seconds, they are after the year 5137.
_SMALLER_UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
_LATEST = 10**11
_MOST = 10**15  # no batch has more requests, and no float holds numbers of many digits
# What reading JSON can raise; the last one is for a document that is nested too deeply.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
MAX_REQUESTS = 50_000
MAX_FILE_BYTES = 200_000_000
MAX_EMBEDDING_INPUTS = 50_000


def is_over(status: str) -> bool:
    """Whether a batch with this status has ended; an unknown status counts as not ended."""
    return status in TERMINAL_STATUSES


def can_be_cancelled(status: str) -> bool:
    """Whether a batch with this status still runs, and is not being cancelled already."""
    return not is_over(status) and status != "cancelling"


def status_of(word: str) -> str:
    """Return OpenAI's word for a status, whatever its spelling; an unknown one in small letters."""
    plain_word = word.strip().lower().replace("-", "_").replace(" ", "_")
    return _OTHER_WORDS.get(plain_word, plain_word)


def _in_seconds(time: int) -> int | None:
    """Return Unix seconds; None for what is no time: some servers send that of the year 1 for "none"."""
    seconds = next((time // unit for least, unit in _SMALLER_UNITS if time > least), time)
    return seconds if 0 < seconds <= _LATEST else None


class BatchRequestCounts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not 0 <= (count := getattr(self, field)) <= _MOST:  # some servers send -1 for "not known"
                msgspec.structs.force_setattr(self, field, min(max(0, count), _MOST))


class BatchErrorItem(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = "".join(
            f", {name} {value}" for name, value in (("line", self.line), ("param", self.param)) if value
        )
        return f"{self.code or 'error'}{where}: {self.message or 'no message'}"


class BatchErrors(msgspec.Struct, frozen=True):
    data: list[BatchErrorItem] | None = None


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = 0
    cache_write_tokens: int | None = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = 0


class BatchUsage(msgspec.Struct, frozen=True):
    input_tokens: int | None = 0
    input_tokens_details: InputTokensDetails | None = None
    output_tokens: int | None = 0
    output_tokens_details: OutputTokensDetails | None = None
    total_tokens: int | None = 0


def _convert_times(found: msgspec.Struct) -> None:
    for field in found.__struct_fields__:
        time = getattr(found, field) if field.endswith("_at") else None
        if time is not None and not 0 < time <= _LATEST:
            msgspec.structs.force_setattr(found, field, _in_seconds(time))


class Batch(msgspec.Struct, frozen=True):
    """A batch; all times are Unix seconds."""

    id: str
    status: str = "unknown"
    endpoint: str | None = None
    model: str | None = None
    input_file_id: str | None = None
    completion_window: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: BatchErrors | None = None
    created_at: int | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: BatchRequestCounts | None = None
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None
    object: str | None = "batch"

    def __post_init__(self) -> None:
        for field in ("input_file_id", "output_file_id", "error_file_id"):
            if getattr(self, field) == "":  # some servers send this for "none"
                msgspec.structs.force_setattr(self, field, None)
        if (status := status_of(self.status)) != self.status:
            msgspec.structs.force_setattr(self, "status", status)
        _convert_times(self)

    @property
    def is_over(self) -> bool:
        return is_over(self.status)

    @property
    def can_be_cancelled(self) -> bool:
        return can_be_cancelled(self.status)

    @property
    def is_being_cancelled(self) -> bool:
        return self.status == "cancelling"

    @property
    def is_good(self) -> bool:
        """Whether it completed with at least one success, as far as the service counts them."""
        if self.status != "completed":
            return False
        counts = self.counts
        # The counts can lag behind the status too.
        lag = self.output_file_id is not None and counts.failed < counts.total
        return counts.completed > 0 or counts.total == 0 or lag

    @property
    def lacks_files(self) -> bool:
        """
        Whether it is over and may have answers in a file that it does not name yet.

        File ids and counts can lag behind the status. A batch that failed, or that was cancelled before it
        ran, has no answers, and where every request failed the error file has all that there is.
        """
        if self.output_file_id or self.status not in _WITH_ANSWERS:
            return False
        counts = self.counts
        if self.status == "completed":
            return counts.total == 0 or counts.failed < counts.total or not self.error_file_id
        may_have_run = (
            self.status == "expired" or self.in_progress_at is not None or self.request_counts is None
        )
        has_run = counts.total > 0 or may_have_run
        return counts.completed > 0 or (has_run and not self.error_file_id)

    @property
    def may_have_answers(self) -> bool:
        """Whether it ended early and names answers, which are paid for."""
        return self.status in {"expired", "cancelled"} and bool(
            self.output_file_id or self.counts.completed > 0
        )

    @property
    def ended_at(self) -> int | None:
        """When it completed, expired or was cancelled, in Unix seconds; None if the service does not say."""
        return self.completed_at or self.expired_at or self.cancelled_at

    @property
    def counts(self) -> BatchRequestCounts:
        return self.request_counts or BatchRequestCounts()

    @property
    def error_items(self) -> list[BatchErrorItem]:
        return (self.errors and self.errors.data) or []

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, for XCom."""
        return plain(self)


class File(msgspec.Struct, frozen=True):
    """An uploaded or produced file; ``bytes`` is its size."""

    id: str
    filename: str | None = None
    bytes: int | None = None
    purpose: str | None = None
    status: str | None = None
    created_at: int | None = None
    expires_at: int | None = None
    object: str | None = "file"

    def __post_init__(self) -> None:
        _convert_times(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, for XCom."""
        return plain(self)


class BatchPage(msgspec.Struct, frozen=True):
    """One page of ``GET /batches``, newest first."""

    data: list[Batch] = []
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class FilePage(msgspec.Struct, frozen=True):
    """One page of ``GET /files``."""

    data: list[File] = []
    has_more: bool = False


class ResultResponse(msgspec.Struct, frozen=True):
    status_code: int | None = None
    request_id: str | None = None
    body: Any = None


class ResultError(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None


class ResultLine(msgspec.Struct, frozen=True):
    """A line of an output or error file."""

    custom_id: str
    id: str | None = None
    response: ResultResponse | None = None
    error: ResultError | None = None


def plain(value: msgspec.Struct) -> dict[str, Any]:
    result: dict[str, Any] = msgspec.to_builtins(value)
    return result


def read(data: bytes | str, kind: type[T]) -> T:
    """
    Read one JSON document as ``kind``.

    :raises msgspec.ValidationError: if the document is not an object, or has no usable ``id``.
    :raises msgspec.DecodeError: if the document is not JSON.
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except msgspec.ValidationError:
        return _salvage(msgspec.json.decode(data), kind)


def _salvage(document: Any, kind: type[T]) -> T:
    """Read the fields one by one, and leave out those that do not fit."""
    if not isinstance(document, dict):
        raise msgspec.ValidationError(f"Expected an object, got {type(document).__name__}")
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        value = document.get(field.encode_name)
        if field.name == "data" and kind in _LISTED and isinstance(value, list):
            kept["data"] = [_salvage(item, _LISTED[kind]) for item in value if _has_id(item)]
        elif field.name == "metadata" and isinstance(value, dict):
            kept["metadata"] = {key: _as_text(item) for key, item in value.items() if item is not None}
        elif value is not None and (fitted := _fit(value, field.type, field.name)) is not None:
            kept[field.name] = fitted
    return msgspec.convert(msgspec.to_builtins(kept), kind, strict=False)


# One odd object in a list must not hide the others.
_LISTED: dict[Any, type[Batch | File]] = {BatchPage: Batch, FilePage: File}


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"] != ""


def _fit(value: Any, kind: Any, name: str) -> Any:
    if name.endswith("_at") and isinstance(value, str):
        value = _time_in(value)
    try:
        return msgspec.convert(int(value) if isinstance(value, float) else value, kind, strict=False)
    except (msgspec.ValidationError, ValueError, OverflowError):  # "nan" is a number to float()
        return None


def _time_in(text: str) -> float | str:
    """Return the Unix seconds of a time in ISO 8601; without a zone it is UTC."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return text


def _as_text(value: Any) -> str:
    """Return a value of metadata as text; one that is not must not hide the others."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
