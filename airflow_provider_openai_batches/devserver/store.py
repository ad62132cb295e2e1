"""What the server stores for each file and batch, and ordered collections of them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from airflow_provider_openai_batches.devserver.limits import DEFAULT_EXPIRY_SECONDS

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_openai_batches.devserver.objects import BatchObject, FileObject


@dataclass(slots=True)
class StoredFile:
    """
    :param born: when the file was stored, on the batch clock.
    :param users: how many batches still need the file. The bytes of a deleted file are kept until none does.
    """

    wire: FileObject
    path: Path
    sha256: str
    born: float
    position: int = 0
    users: int = 0
    deleted: bool = False


@dataclass(slots=True)
class InputCheck:
    """
    What was found when an input file was read.

    :param offsets: where each request line begins.
    :param quirks: by line index, what the request asks to happen to it.
    :param order: the line indexes in the order in which the requests are executed.
    :param failing: the places in that order whose requests fail.
    :param expiring: the places in that order whose requests are never executed.
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
class Outcomes:
    """How many requests have succeeded and failed so far."""

    completed: int = 0
    failed: int = 0


@dataclass(slots=True)
class WrittenResults:
    outcomes: Outcomes
    usage: dict[str, Any]
    output: StoredFile | None
    error: StoredFile | None


@dataclass(slots=True)
class StoredBatch:
    """
    A batch and its plan. Times are those of the batch clock.

    :param number: its place, from 1, among the batches that were created over the API.
    :param seconds: from its creation to its end.
    :param validating: from its creation to the end of its validation; None: a fixed part of ``seconds``.
    :param per_request: how many seconds each request adds to ``seconds``.
    :param requests: how many requests its input file has, and ``tokens`` how many prompt tokens.
    :param due: when the current status may end.
    :param running_since: when the batch became in_progress.
    :param ending: the terminal status that the batch is heading for, once that is known.
    :param portion: the fraction of the requests that gets executed, if a test has set one.
    :param done: how many requests get executed, once that is settled.
    :param rush: do not wait for ``due`` any more.
    :param stuck: the status stays as it is.
    :param seeded: a test has added the batch; it was not created over the API.
    :param dropped: the server was reset, and has forgotten the batch.
    :param producing: the writing of the results has been started.
    :param sent: with an upstream, how many requests have succeeded and failed so far.
    :param overrides: the fields that a test has set.
    :param over: set when the batch is over, for a test that waits for that.
    """

    wire: BatchObject
    start: float
    seconds: float
    expires: float
    number: int = 0
    validating: float | None = None
    per_request: float = 0.0
    requests: int = 0
    tokens: int = 0
    due: float = 0.0
    born: float = 0.0
    input: StoredFile | None = None
    output_expiry: int = DEFAULT_EXPIRY_SECONDS
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
    check: InputCheck | None = None
    producing: bool = False
    sent: Outcomes | None = None
    results: WrittenResults | None = None
    overrides: dict[str, Any] | None = None
    over: threading.Event | None = None


class _Item(Protocol):
    @property
    def wire(self) -> Any: ...

    position: int


T = TypeVar("T", bound=_Item)


class PagedCollection(Generic[T]):
    """Items in the order of their creation. A page costs the same, however many items there are."""

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
        self._order[item.position] = None  # the positions of the others must not change: they are cursors

    def clear(self) -> None:
        self._by_id.clear()
        self._order.clear()

    def merge(self, items: list[T], key: Callable[[T], float]) -> None:
        """Add many items, each at its place by ``key``."""
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
