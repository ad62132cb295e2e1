"""
From an input to its one batch: find the one that an earlier try left, or upload and create.

Shared by every operator that submits. A first try sends no request more than it must: upload and create.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import tenacity

from airflow_provider_openai_batches.api import retry
from airflow_provider_openai_batches.exceptions import APIError, TaskKilled
from airflow_provider_openai_batches.idempotency import keys as naming
from airflow_provider_openai_batches.idempotency.cancel import CANCEL_SECONDS, KILL_SECONDS, Killer
from airflow_provider_openai_batches.observability import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.storage import Location


class BatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the service, the input aside."""

    endpoint: str
    completion_window: str = "24h"
    metadata: Mapping[str, str] = {}
    output_expires_after: int | Mapping[str, Any] | None = None


class Ledger:
    """
    This task's batches as the service lists them.

    :param since: Unix seconds before which none of them was created; None for a first try, which has none.
    """

    def __init__(self, hook: OpenAIBatchesHook, task: TaskIdentity, since: float | None) -> None:
        self._hook = hook
        self._prefix = f"{task.task_key}-"
        self._found: dict[str, Batch] | None = None if since is not None else {}
        self._waited, self._pause = 0.0, 0.5
        self.since = since

    @property
    def batches(self) -> list[Batch]:
        """The task's own batches, newest first."""
        if self._found is None:
            self._found = self._read(max(self.since or 0.0, time.time() - naming.MAX_AGE))
        return list(self._found.values())

    @property
    def seen(self) -> frozenset[str]:
        """Ids of those that were read so far."""
        return frozenset(self._found or ())

    def look_again(self) -> bool:
        """
        Wait a little and read the newest batches again.

        An earlier try may have died a moment ago, and the list may lag as it may after a lost answer.

        :return: False once that has been waited for; on a first try and after a kill at once.
        """
        left = self._hook.recovery_seconds - self._waited
        if self.since is None or left <= 0 or self._hook.stopped:
            return False
        pause = min(self._pause, left)
        self._hook.sleep(pause)
        self._waited, self._pause = self._waited + pause, min(self._pause * 2, 8.0)
        fresh = self._read(time.time() - self._hook.recovery_seconds)
        self._found = fresh | {batch.id: batch for batch in self.batches if batch.id not in fresh}
        return True

    @property
    def unseen_since(self) -> float | None:
        """Unix seconds from which on there may be batches that were not seen; None if there can be none."""
        if self._found is None:
            return self.since
        patience = self._hook.recovery_seconds
        return time.time() - patience if self.since is not None and self._waited < patience else None

    def note(self, batch: Batch) -> None:
        """Take over what the service answered about one of them."""
        if self._found is not None:
            self._found[batch.id] = batch

    def _read(self, since: float) -> dict[str, Batch]:
        listed = self._hook.iter_batches_since(since)
        return {batch.id: batch for batch in listed if (naming.key_of(batch) or "").startswith(self._prefix)}

    @cached_property
    def files(self) -> dict[str, str]:
        """Ids of the files that earlier tries uploaded, by name."""
        if self.since is None:
            return {}
        found: dict[str, str] = {}
        for file in self._hook.iter_files():
            if file.created_at is not None and file.created_at < self.since - naming.CLOCK_SKEW:
                break
            if file.filename and file.status != "error":
                found.setdefault(file.filename, file.id)
        return found


class Submitter:
    """
    Submits the batches of one task.

    :param reuse: whether batches of earlier tries are taken up; if not, those that still run are cancelled.
    """

    def __init__(
        self, hook: OpenAIBatchesHook, task: TaskIdentity, ledger: Ledger, log: Log, *, reuse: bool = True
    ) -> None:
        self.hook = hook
        self.task = task
        self.ledger = ledger
        self._log = log
        self._reuse = reuse
        self._salt = "" if reuse else naming.one_time_key()
        self._asked: set[str] = set()
        self._killed = self._answer_lost = False
        # What a kill has to cancel: the batches, and the keys of creates whose answer is not there yet.
        self.known: set[str] = set()
        self.pending: dict[str, float] = {}

    def key(self, input_digest: str, shard: int = 0) -> str:
        return self.task.key(input_digest + self._salt, shard)

    def find(self, key: str) -> Batch | None:
        """The batch that an earlier try made of the same input, if it can be used."""
        batch = self._usable(key)
        while batch is None and self.ledger.look_again():
            self.cancel_outdated(self._asked)
            batch = self._usable(key)
        if batch:
            metrics.batch_adopted(batch)
            self._log.info(
                "Batch %s of an earlier try is %s: it is taken up, nothing is sent", batch.id, batch.status
            )
            if not batch.is_over:
                self.known.add(batch.id)
        return batch

    def _usable(self, key: str) -> Batch | None:
        return naming.choose(self.ledger.batches, key) if self._reuse else None

    def cancel_outdated(self, keys: set[str]) -> None:
        """Cancel what earlier tries left running for an input that this one does not ask any more."""
        self._asked = keys
        for batch in naming.outdated(self.ledger.batches, self.task.task_key, keys):
            if self.hook.stopped:
                raise TaskKilled(f"The task is being stopped: batch {batch.id} of an earlier try is left.")
            self._log.warning("Batch %s still runs for an input of an earlier try; cancelling it", batch.id)
            self.ledger.note(self.hook.cancel_batch(batch.id))

    def submit_file_id(self, spec: BatchSpec, key: str, input_file_id: str) -> Batch:
        """Create the batch of a file that is at the service already."""
        metadata = self.task.metadata(key, spec.metadata)
        older = [batch.id for batch in self.ledger.batches if naming.key_of(batch) == key]
        self.pending[key] = time.time()
        try:
            batch = self.hook.create_batch(
                input_file_id,
                spec.endpoint,
                spec.completion_window,
                metadata,
                spec.output_expires_after,
                older=older,
            )
        except (APIError, TaskKilled):
            # The service said no, or was not asked: there is nothing to look for. Otherwise there may be.
            del self.pending[key]
            raise
        except BaseException:
            self._answer_lost = True
            raise
        self.known.add(batch.id)
        del self.pending[key]
        if self._killed:
            Killer(self.hook.sibling(), self._log, CANCEL_SECONDS).cancel([batch.id])
            raise TaskKilled(f"The task was stopped while batch {batch.id} was created; it is cancelled.")
        metrics.batch_created(batch)
        self._log.info("Batch %s created: %s, %s", batch.id, spec.endpoint, batch.status)
        return batch

    def submit_file(
        self,
        spec: BatchSpec,
        key: str,
        source: Location,
        expires_after: int | Mapping[str, Any] | None = None,
    ) -> Batch:
        """Upload a file, or find it where an earlier try left it, and create its batch."""
        name = f"airflow-{key}.jsonl"
        if known := self._known_file(key, name):
            try:
                self._log.info("Input file %s of an earlier try is used again", known)
                return self.submit_file_id(spec, key, known)
            except APIError as error:
                if not retry.is_unusable(error):
                    raise
                self._log.info("Input file %s cannot be used any more (%s); uploading it again", known, error)
        file = self.hook.upload_file(source, name, expires_after)
        self._log.info("Input file %s uploaded: %s bytes", file.id, file.bytes)
        return self._after_upload(lambda: self.submit_file_id(spec, key, file.id))

    def _known_file(self, key: str, name: str) -> str | None:
        if not self._reuse:
            return None
        earlier = (batch.input_file_id for batch in self.ledger.batches if naming.key_of(batch) == key)
        return next((file_id for file_id in earlier if file_id), None) or self.ledger.files.get(name)

    def _after_upload(self, create: Callable[[], Batch]) -> Batch:
        """A file can need a moment after its upload before a batch may use it."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(retry.is_file_not_ready),
            stop=tenacity.stop_after_attempt(4),
            wait=tenacity.wait_exponential(multiplier=1),
            sleep=self.hook.sleep,
            reraise=True,
        )
        return retrying(create)

    def kill(self) -> None:
        """Begin nothing any more, and cancel all that this task has running, known or not yet known."""
        self._killed = True
        self.hook.stop()
        unseen = self.ledger.unseen_since
        unknown = unseen is not None and not self.known
        seconds = KILL_SECONDS if self.pending or unknown else CANCEL_SECONDS
        if self._answer_lost:
            seconds = max(seconds, self.hook.recovery_seconds)
        killer = Killer(self.hook.sibling(), self._log, seconds)
        killer.cancel(self.known)
        since = [*self.pending.values(), *([] if unseen is None else [unseen])]
        if since:
            pending, older = set(self.pending), self.ledger.seen
            killer.find_and_cancel(self.task.task_key, pending, min(since), older=older, unseen=unknown)
