"""Finds the batches that earlier tries of a task left at the service, and those whose answer was lost."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.exceptions import (
    CreateUncertainError,
    OpenAIBatchesError,
    UnknownBatchError,
)
from airflow_provider_openai_batches.idempotency.keys import KEY, key_of, names_of, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.idempotency.service import Service

# Seconds; older batches are not searched for, because the service deletes their files after 30 days.
MAX_AGE = 30 * 24 * 3600
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
SHOWN = 5  # ids in an error


# Which batch of a key a task takes as its own, the best first: one with all results, one that runs, one that
# ended early with answers, one that may do so.
_WHOLE: tuple[Callable[[Batch], bool], ...] = (
    lambda batch: batch.is_good,
    lambda batch: batch.can_be_cancelled,
)
_PARTLY: tuple[Callable[[Batch], bool], ...] = (
    lambda batch: batch.may_have_answers,
    lambda batch: batch.is_being_cancelled,
)


def choose(batches: Iterable[Batch], key: str, renamed: Collection[str] = ()) -> Batch | None:
    """
    Return the batch with this key that is not to be replaced: it has answers, or may get some.

    :param renamed: ids of batches that may be another deployment's. One of the task's own that runs comes
        first, because otherwise nobody would wait for it.
    """
    mine = sorted((batch for batch in batches if key_of(batch) == key), key=lambda one: one.id in renamed)
    own = [batch for batch in mine if batch.id not in renamed]
    choices = [(_WHOLE, own), (_WHOLE, mine), (_PARTLY, mine)]
    return next((one for kinds, some in choices for fits in kinds for one in some if fits(one)), None)


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
        # Ids of batches that only the readable names claim for this task: it uses them, and cancels none.
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
        """Wait for what the batches with this key do not name yet, and see which are cancelled by now."""
        for listed in self.with_key(key):
            # The list may lag: a wait for the end of a batch that is over would be followed by another one.
            batch = self._service.retrieve_batch(listed.id) if listed.is_being_cancelled else listed
            self.note(self._service.settled(batch))

    def note(self, batch: Batch) -> None:
        """Note the state of a batch that the service has just returned."""
        if self._found is not None:
            batch = self._signed(batch)
            self._found[batch.id] = self._task.renamed(batch) or batch

    def unknown(self, input_file_id: str) -> list[str]:
        """Return ids of the batches that this task may have made of this file; nothing proves it."""
        if self._gives_metadata:
            return []
        return [batch.id for batch in self._unknown.values() if batch.input_file_id in {None, input_file_id}]

    def _read(self, since: float) -> dict[str, Batch]:
        listed = list(self._service.iter_batches_since(since))
        self._gives_metadata = self._gives_metadata or any(batch.metadata for batch in listed)
        found: dict[str, Batch] = {}
        for batch in map(self._signed, listed):
            if self._task.owns(batch):
                found[batch.id] = batch
            elif renamed := self._task.renamed(batch):
                found[batch.id] = renamed
                if not self._task.made(batch):  # else the first release made it here
                    self.renamed.add(batch.id)
            elif key_of(batch) is None:
                self._unknown[batch.id] = batch
        return found

    def _signed(self, batch: Batch) -> Batch:
        """Find the key of a batch in the name of its input file, where the service gives no metadata back."""
        if self._gives_metadata or key_of(batch) is not None or batch.input_file_id is None:
            return batch
        return signed(batch, self._names)

    @property
    def files(self) -> dict[str, str]:
        """Ids of the input files that earlier tries uploaded, by name."""
        newest_last = reversed(self._names.items())
        return {name: file_id for file_id, name in newest_last}

    @cached_property
    def _names(self) -> dict[str, str]:
        return names_of(self._service.iter_files_since(self.since))


class Search:
    """
    Looks for the batch of a create whose answer was lost.

    :param key: of the batch, in its metadata.
    :param older: ids of batches with the same key that existed before: this create did not make them.
    :param input_file_id: of the create. Where the service gives no metadata back, this is the second key.
    :param is_own_file: whether the file was uploaded for this batch, so that no other one is made of it.
    """

    def __init__(
        self, service: Service, key: str, older: Collection[str], input_file_id: str, *, is_own_file: bool
    ) -> None:
        self.key = key
        self.patience = service.recovery_seconds  # a list may lag behind
        self._service, self._older = service, frozenset(older)
        self._file_id, self._is_own_file = input_file_id, is_own_file

    def run(self, started: float) -> Batch | None:
        """
        Look for the batch until patience ends; None only if the last list was complete and lacked it.

        :param started: Unix seconds at which the create was sent.
        """
        waited, pause = 0.0, FIRST_PAUSE
        while True:
            unknown: list[str] = []
            try:
                batch = self._find(started, unknown)
            except OpenAIBatchesError as error:
                if waited >= self.patience:
                    raise CreateUncertainError(
                        "The answer to the creation of a batch was lost, and the list cannot be read to find "
                        f"out whether it was stored ({error}). Nothing was sent again. The task's next try "
                        f"looks for it; by hand, look for a batch with metadata {KEY}={self.key}."
                    ) from error
                batch = None
            if batch is None and unknown and waited >= self.patience:
                raise unknown_batch(unknown)
            if batch or waited >= self.patience:
                return batch
            self._service.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, LONGEST_PAUSE)

    def _find(self, started: float, unknown: list[str]) -> Batch | None:
        """Return the batch with the key, and collect those that may be it without a proof."""
        gives_metadata = False
        for batch in self._service.iter_batches_since(started):
            gives_metadata = gives_metadata or bool(batch.metadata)
            if batch.id in self._older:
                continue
            if key_of(batch) == self.key:
                return batch
            if key_of(batch) is None and batch.input_file_id in {None, self._file_id}:
                if batch.input_file_id and self._is_own_file:
                    return batch
                unknown.append(batch.id)
        if gives_metadata:  # then this one would have its key
            unknown.clear()
        return None


def unknown_batch(batch_ids: list[str]) -> UnknownBatchError:
    which = ", ".join(batch_ids[:SHOWN])
    return UnknownBatchError(
        f"A batch of this task may be stored already, and it may be any of {which}: the service gives "
        "back neither metadata nor an input file that belongs to one batch alone. Nothing was sent again. "
        "Look at these batches; if none of them is this task's, set reuse=False for one try. With input_file "
        "instead of input_file_id each batch has a file of its own."
    )
