"""Files and batches: their wire form, what the server knows beyond it, and ordered collections of both."""

from __future__ import annotations

import secrets
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.devserver.upstream import Sender

DEFAULT_EXPIRY = 30 * 86_400


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


class FileObject(msgspec.Struct):
    """https://developers.openai.com/api/reference/resources/files"""

    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | UnsetType = UNSET
    object: str = "file"
    status: str = "processed"


class BatchObject(msgspec.Struct):
    """https://developers.openai.com/api/reference/resources/batches"""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int | None = None
    object: str = "batch"
    status: str = "validating"
    model: str | None = None
    errors: dict[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: dict[str, int] | None = None
    usage: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


@dataclass(slots=True)
class StoredFile:
    """
    :param born: when it came to be, on the life clock.
    :param users: the batches that still read it; a deleted file stays on disk for them.
    """

    wire: FileObject
    path: Path
    sha256: str
    born: float
    position: int = 0
    users: int = 0
    deleted: bool = False


@dataclass(slots=True)
class Check:
    """
    What reading an input file through once has found.

    :param offsets: where each request line begins.
    :param quirks: by line index, what the request asks to happen to it.
    :param order: the order in which the requests are done.
    :param failing: the places in that order that will not succeed.
    :param expiring: the places in that order that will never be reached.
    """

    errors: list[dict[str, Any]] = field(default_factory=list)
    model: str | None = None
    tokens: int = 0
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    quirks: dict[int, str] = field(default_factory=dict)
    order: array[int] = field(default_factory=lambda: array("L"))
    failing: list[int] = field(default_factory=list)
    expiring: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.offsets)


@dataclass(slots=True)
class Results:
    completed: int
    failed: int
    usage: dict[str, Any] | None
    output: StoredFile | None
    error: StoredFile | None


@dataclass(slots=True)
class BatchRecord:
    """
    A batch and its plan; times are those of the life clock.

    :param due: when the present status may end.
    :param ending: the terminal status that the batch is heading for, once that is known.
    :param portion: the fraction of requests that gets done, if that was set from outside.
    :param rush: do not wait for due times any more.
    :param stuck: the status stays as it is.
    """

    wire: BatchObject
    start: float
    seconds: float
    expires: float
    due: float = 0.0
    born: float = 0.0
    input: StoredFile | None = None
    output_expiry: int = DEFAULT_EXPIRY
    position: int = 0
    running_since: float = 0.0
    ending: str | None = None
    portion: float | None = None
    done: int | None = None
    total: int = 0
    rush: bool = False
    stuck: bool = False
    seeded: bool = False
    dropped: bool = False
    over_at: float | None = None
    check: Check | None = None
    producing: bool = False
    results: Results | None = None
    sender: Sender | None = None
    overrides: dict[str, Any] | None = None
    over: threading.Event | None = None


class _Item(Protocol):
    @property
    def wire(self) -> Any: ...

    position: int


T = TypeVar("T", bound=_Item)


class Ledger(Generic[T]):
    """Items in the order of their creation; a page costs its own length, whatever the whole holds."""

    def __init__(self) -> None:
        self._by_id: dict[str, T] = {}
        self._order: list[T | None] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._by_id.values()))

    def get(self, item_id: str) -> T | None:
        return self._by_id.get(item_id)

    def add(self, item: T) -> None:
        item.position = len(self._order)
        self._order.append(item)
        self._by_id[item.wire.id] = item

    def remove(self, item: T) -> None:
        del self._by_id[item.wire.id]
        self._order[item.position] = None  # a hole: the places of the others are cursors

    def clear(self) -> None:
        self._by_id.clear()
        self._order.clear()

    def merge(self, items: list[T], key: Callable[[T], float]) -> None:
        """Add many items at their places in time."""
        self._by_id.update((item.wire.id, item) for item in items)
        merged = sorted([item for item in self._order if item is not None] + items, key=key)
        self._order = list[T | None](merged)
        for position, item in enumerate(self._order):
            if item is not None:
                item.position = position

    def page(
        self, after: T | None, limit: int, shown: Callable[[T], bool], *, newest_first: bool = True
    ) -> tuple[list[T], bool]:
        """At most ``limit`` of the items that are ``shown``, and whether there are more."""
        step = -1 if newest_first else 1
        first = (len(self._order) - 1 if newest_first else 0) if after is None else after.position + step
        found: list[T] = []
        for position in range(first, -1 if newest_first else len(self._order), step):
            item = self._order[position]
            if item is None or not shown(item):
                continue
            if len(found) == limit:
                return found, True
            found.append(item)
        return found, False
