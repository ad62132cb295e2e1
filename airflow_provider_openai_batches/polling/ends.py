"""
Which batches have ended since a watch began, each of them told once.

Nothing here sends a request or reads a clock. A watch is shown batches again and again, in any order, and
what it has to remember is small: a time of the service's own clock, and the batches that ended shortly before
it or since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.idempotency.keys import PREFIX, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.api.models import Batch

# Seconds. A list may show a batch's end this much later than those that ended after it.
LATE = 900
# Where no batch has ended, a watch begins so long before the time of its own clock: the service's may be
# behind. Without this bound, a list that is empty by mistake would make news of all that ever ended.
BEHIND = 3_600
# File ids can lag behind a status; a batch that has ended is told this many seconds later without them.
FILES_WITHIN = 120.0


class Filter(msgspec.Struct, frozen=True):
    """
    Which batches a watch is about.

    :param metadata: pairs that a batch must have, among others.
    :param statuses: how it may end; None: any way.
    :param include_airflow: also batches that tasks of this provider submitted, which wait for them.
    """

    metadata: dict[str, str] = {}
    statuses: frozenset[str] | None = None
    include_airflow: bool = False

    def takes(self, batch: Batch) -> bool:
        """Whether it is about a batch, whatever its status."""
        pairs = batch.metadata or {}
        is_ours = key_of(batch) is not None
        return (self.include_airflow or not is_ours) and self.metadata.items() <= pairs.items()

    def takes_status(self, status: str) -> bool:
        return self.statuses is None or status in self.statuses


class Position(msgspec.Struct, frozen=True):
    """
    How far a watch has come.

    :param since: no batch that ended before is told; Unix seconds.
    :param told: the batches that ended later, or less than ``LATE`` seconds before, and when; they were told.
    """

    since: int
    told: dict[str, int] = {}


class Ends:
    """
    The state of a watch.

    :param position: where an earlier watch with the same filter came to. None: what has ended by the first
        look at the whole list is not told.
    """

    def __init__(self, wanted: Filter, position: Position | None = None) -> None:
        self._wanted = wanted
        self._since = position.since if position else None
        self._told = dict(position.told) if position else {}
        # Batches that were seen before their end: they are told whenever it comes.
        self._running: set[str] = set()
        # Batches that have ended, and since when (the caller's clock) they have been waited for their files.
        self._without_files: dict[str, float] = {}
        self._latest = 0
        self._news: list[Batch] = []

    @property
    def since(self) -> int | None:
        """The time that the watch has come to, in Unix seconds; None before its first look is complete."""
        return self._since

    def saw(self, batch: Batch, now: float) -> bool:
        """
        Take what the service says of a batch.

        :param now: Unix seconds.
        :return: whether the batch is going to be told, so that the watch must be shown it again.
        """
        ended = ended_at(batch)
        if batch.is_over:
            self._latest = max(self._latest, min(ended, int(now)))
        if not self._wanted.takes(batch) or batch.id in self._told:
            return False  # also if an older copy of the list shows it as running again
        if not batch.is_over:
            self._running.add(batch.id)
            return True
        if not self._is_new(batch, ended):
            return False
        if batch.lacks_files and now - self._without_files.setdefault(batch.id, now) < FILES_WITHIN:
            self._running.add(batch.id)
            return True
        self._running.discard(batch.id)
        self._without_files.pop(batch.id, None)
        self._told[batch.id] = ended
        if self._wanted.takes_status(batch.status):
            self._news.append(batch)
        return False

    def _is_new(self, batch: Batch, ended: int) -> bool:
        if batch.id in self._running:
            return True
        if self._since is not None:
            return ended > self._since - LATE
        self._told[batch.id] = ended  # it had ended before the watch began
        return False

    def lost(self, batch_id: str) -> None:
        """Forget a batch that the service does not know any more."""
        self._running.discard(batch_id)
        self._without_files.pop(batch_id, None)

    def looked(self, now: float) -> None:
        """
        Note that all that the list has for this watch was shown to it.

        :param now: as for :meth:`saw`.
        """
        if self._since is None:
            self._since = self._latest or int(now) - BEHIND
        self._since = max(self._since, self._latest)
        self._told = {one: ended for one, ended in self._told.items() if ended > self._since - LATE}

    def take(self) -> tuple[list[Batch], Position | None]:
        """Return the batches to tell, and the position of a watch that has told them."""
        news, self._news = self._news, []
        return news, None if self._since is None else Position(self._since, dict(self._told))


def ended_at(batch: Batch) -> int:
    """Return when a batch ended, in Unix seconds; for services that do not say it, when it was created."""
    return batch.ended_at or batch.failed_at or batch.created_at or 0


def payload_of(batch: Batch, conn_id: str) -> dict[str, Any]:
    """Return what the event of a batch says: no more than a DAG needs to go on with it."""
    own: Mapping[str, str] = batch.metadata or {}
    return {
        "openai_conn_id": conn_id,
        "batch_id": batch.id,
        "status": batch.status,
        "endpoint": batch.endpoint,
        "counts": msgspec.to_builtins(batch.counts),
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "metadata": {name: value for name, value in own.items() if not name.startswith(PREFIX)},
    }
