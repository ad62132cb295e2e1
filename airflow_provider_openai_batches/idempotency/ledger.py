"""The batches and files that earlier tries of a task left at the service."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.idempotency.keys import key_of, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.idempotency.service import Service

# Seconds; older batches are not searched for, because the service deletes their files after 30 days.
MAX_AGE = 30 * 24 * 3600
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0


# Which batch of a key a task takes as its own, the best first: one with all results, one that runs, one that
# ended early with answers, one that may do so.
_CHOICE: tuple[Callable[[Batch], bool], ...] = (
    lambda batch: batch.is_good,
    lambda batch: batch.can_be_cancelled,
    lambda batch: batch.may_have_answers,
    lambda batch: batch.is_being_cancelled,
)


def choose(batches: Iterable[Batch], key: str) -> Batch | None:
    """Return the batch with this key that is not to be replaced: it has answers, or may get some."""
    mine = [batch for batch in batches if key_of(batch) == key]
    return next((batch for fits in _CHOICE for batch in mine if fits(batch)), None)


class Ledger:
    """
    The part of the service's own list that belongs to one task. A first try needs no ledger.

    :param since: Unix seconds before which none of the task's batches was created.
    """

    def __init__(self, service: Service, task: TaskIdentity, since: float) -> None:
        self.since = since
        self._service = service
        self._task = task
        self._found: dict[str, Batch] | None = None
        self._unknown: dict[str, Batch] = {}
        self._gives_metadata = False
        # Ids of batches that were made under another guess at the deployment's id.
        self.renamed: set[str] = set()
        self._waited, self._pause = 0.0, FIRST_PAUSE

    @property
    def batches(self) -> list[Batch]:
        """The task's own batches, newest first."""
        if self._found is None:
            self._found = self._read(max(self.since, time.time() - MAX_AGE))
        return list(self._found.values())

    def with_key(self, key: str) -> list[Batch]:
        return [batch for batch in self.batches if key_of(batch) == key]

    def outdated(self, keys: set[str]) -> list[Batch]:
        """Return the batches that still run although the task no longer asks for them under these keys."""
        return [
            batch
            for batch in self.batches
            if batch.can_be_cancelled and key_of(batch) not in keys and batch.id not in self.renamed
        ]

    @property
    def seen(self) -> frozenset[str]:
        """Ids of the batches that have been read so far."""
        return frozenset(self._found or ())

    def look_again(self) -> bool:
        """
        Wait a little and read the newest batches again.

        An earlier try may have died a moment ago, and the list may not show its last batch yet.

        :return: False once ``recovery_seconds`` have been spent on this, and after a kill.
        """
        left = self._service.recovery_seconds - self._waited
        if left <= 0 or self._service.stopped:
            return False
        pause = min(self._pause, left)
        self._service.sleep(pause)
        self._waited, self._pause = self._waited + pause, min(self._pause * 2, LONGEST_PAUSE)
        fresh = self._read(time.time() - self._service.recovery_seconds)
        self._found = fresh | {batch.id: batch for batch in self.batches if batch.id not in fresh}
        return True

    @property
    def unseen_since(self) -> float | None:
        """Unix seconds since when there may be batches that were not seen; None if there are none."""
        if self._found is None:
            return self.since
        patience = self._service.recovery_seconds
        return time.time() - patience if self._waited < patience else None

    def settle(self, key: str) -> None:
        """Wait for what the batches with this key do not name yet."""
        for batch in self.with_key(key):
            self.note(self._service.settled(batch))

    def note(self, batch: Batch) -> None:
        """Note the state of a batch that the service has just returned."""
        if self._found is not None:
            signed_batch = self._signed(batch)
            self._found[batch.id] = (
                self._task.renamed(signed_batch) or signed_batch if batch.id in self.renamed else signed_batch
            )

    def unknown(self, input_file_id: str) -> list[str]:
        """Return ids of the batches that this task may have made of this file, as far as anybody can tell."""
        if self._gives_metadata:
            return []
        return [batch.id for batch in self._unknown.values() if batch.input_file_id in {None, input_file_id}]

    def _read(self, since: float) -> dict[str, Batch]:
        listed = list(self._service.iter_batches_since(since))
        self._gives_metadata = self._gives_metadata or any(batch.metadata for batch in listed)
        listed = [self._signed(batch) for batch in listed]
        self._unknown |= {batch.id: batch for batch in listed if key_of(batch) is None}
        found = {batch.id: batch for batch in listed if self._task.owns(batch)}
        renamed = {
            batch.id: mine
            for batch in listed
            if batch.id not in found and (mine := self._task.renamed(batch)) is not None
        }
        self.renamed |= renamed.keys()
        return found | renamed

    def _signed(self, batch: Batch) -> Batch:
        """Find the key of a batch in the name of its input file, where the service gives no metadata back."""
        if self._gives_metadata or key_of(batch) is not None or batch.input_file_id is None:
            return batch
        return signed(
            batch, next((name for name, ids in self._ids.items() if batch.input_file_id in ids), None)
        )

    @property
    def files(self) -> dict[str, str]:
        """Ids of the input files that earlier tries uploaded, by name."""
        return {name: ids[0] for name, ids in self._ids.items()}

    @cached_property
    def _ids(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in self._service.iter_files_since(self.since):
            if file.filename and file.status != "error":
                found.setdefault(file.filename, []).append(file.id)
        return found
