"""
Gets the one batch of an input: finds the batch that an earlier try left, or uploads and creates.

``POST /batches`` has no idempotency key. So a create is repeated only when the answer proves that nothing was
stored; after any other failure the newest batches are searched for the key that the create carried.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import tenacity

from airflow_provider_openai_batches.api import retry, validation
from airflow_provider_openai_batches.exceptions import (
    APIError,
    CreateUncertainError,
    OpenAIBatchesError,
    TaskKilled,
    TransportError,
    UnknownBatchError,
)
from airflow_provider_openai_batches.idempotency.cancel import CANCEL_SECONDS, SEARCH_SECONDS, Canceller
from airflow_provider_openai_batches.idempotency.keys import (
    KEY,
    METADATA_KEYS,
    file_name,
    key_of,
    one_time_key,
)
from airflow_provider_openai_batches.idempotency.ledger import FIRST_PAUSE, LONGEST_PAUSE, choose
from airflow_provider_openai_batches.observability import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.idempotency.ledger import Ledger
    from airflow_provider_openai_batches.idempotency.service import Service

FILE_ATTEMPTS = 4
SHOWN = 5  # ids in an error


class Creation:
    """
    One create, sent until its batch is known.

    :param send: sends the create, and itself repeats what may be repeated at once.
    :param batches_since: lists the batches created at a Unix time or later, newest first.
    :param patience: seconds for which a batch is looked for, because a list may lag behind.
    :param max_attempts: how often the create is sent at the most.
    :param older: ids of batches with the same key that were there before: this create did not make them.
    :param input_file_id: of the create. Where the service gives no metadata back, this is the second key.
    :param is_own_file: whether the file was uploaded for this batch, so that no other one is made of it.
    """

    def __init__(
        self,
        send: Callable[[], Batch],
        batches_since: Callable[[float], Iterable[Batch]],
        *,
        patience: float,
        max_attempts: int,
        sleep: Callable[[float], None],
        log: Log,
        older: Collection[str] = (),
        input_file_id: str | None = None,
        is_own_file: bool = False,
    ) -> None:
        self._send = send
        self._batches_since = batches_since
        self._patience = patience
        self._max_attempts = max_attempts
        self._sleep = sleep
        self._log = log
        self._older = frozenset(older)
        self._file_id, self._is_own_file = input_file_id, is_own_file

    def run(self, key: str) -> Batch:
        """
        Return the batch, which carries ``key``.

        :raises APIError: if the service refuses it.
        :raises CreateUncertainError: if it cannot be found out whether the batch was stored.
        :raises UnknownBatchError: if a batch was stored, and nothing says whether it is this one.
        """
        for attempt in range(1, self._max_attempts + 1):
            started = time.time()
            try:
                return self._send()
            except (APIError, TransportError) as error:
                if retry.verdict_of(retry.CREATE, error) is not retry.Verdict.MAYBE_STORED:
                    raise
                self._log.warning(
                    "create_batch: attempt %d has no certain outcome (%s); looking for its batch by its key",
                    attempt,
                    error,
                )
                if batch := self._look(key, started):
                    metrics.batch_adopted(batch)
                    self._log.info("create_batch: batch %s was stored; it is adopted", batch.id)
                    return batch
                last = error
                self._log.info(
                    "create_batch: no batch with key %s within %.0f s; sending it again", key, self._patience
                )
        raise last

    def _look(self, key: str, started: float) -> Batch | None:
        """Look for the batch until patience ends; None only if the last list was complete and lacked it."""
        waited, pause = 0.0, FIRST_PAUSE
        while True:
            unknown: list[str] = []
            try:
                batch = self._find(key, self._batches_since(started), unknown)
            except OpenAIBatchesError as error:
                if waited >= self._patience:
                    raise CreateUncertainError(
                        "The answer to the creation of a batch was lost, and the list cannot be read to find "
                        f"out whether it was stored ({error}). Nothing was sent again. The task's next try "
                        f"looks for it; by hand, look for a batch with metadata {KEY}={key}."
                    ) from error
                batch = None
            if batch is None and unknown and waited >= self._patience:
                raise unknown_batch(unknown)
            if batch or waited >= self._patience:
                return batch
            self._sleep(pause)
            waited, pause = waited + pause, min(pause * 2, LONGEST_PAUSE)

    def _find(self, key: str, listed: Iterable[Batch], unknown: list[str]) -> Batch | None:
        """Return the batch with the key, and collect those that may be it as far as anybody can tell."""
        gives_metadata = False
        for batch in listed:
            gives_metadata = gives_metadata or bool(batch.metadata)
            if batch.id in self._older:
                continue
            if key_of(batch) == key:
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
        f"A batch of this task may be stored already, and it may be any of {which}: the service gives no "
        "metadata back, and no input file that was uploaded for one batch alone. Nothing was sent again. "
        "Look at these batches; if none of them is this task's, set reuse=False for one try. With input_file "
        "instead of input_file_id each batch has a file of its own."
    )


class BatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch asks of the service, apart from its input."""

    endpoint: str
    completion_window: str = "24h"
    metadata: Mapping[str, str] = {}
    output_expires_after: int | Mapping[str, Any] | None = None

    def check(self) -> None:
        """
        Refuse what the service would refuse, before anything is sent.

        :raises InvalidInputError: naming the argument.
        """
        validation.check_endpoint(self.endpoint)
        validation.check_text(self.completion_window, "completion_window")
        validation.check_metadata({**self.metadata, **dict.fromkeys(METADATA_KEYS, "")})
        if self.output_expires_after is not None:
            validation.check_expiry(self.output_expires_after, "output_expires_after")


class Submitter:
    """
    Submits the batches of one task.

    :param ledger: what earlier tries left; None on a first try, which has nothing to look for.
    :param reuse: whether batches of earlier tries are used; if not, those that still run are cancelled.
    """

    def __init__(
        self, service: Service, task: TaskIdentity, ledger: Ledger | None, log: Log, *, reuse: bool = True
    ) -> None:
        self.service = service
        self.task = task
        self.ledger = ledger
        self._log = log
        self._reuse = reuse
        self._salt = "" if reuse else one_time_key()
        self._asked: set[str] = set()
        self._killed = self._answer_lost = False
        # What a kill has to cancel: the batches, and the keys of creates that are not answered yet.
        self.known: set[str] = set()
        self.pending: dict[str, float] = {}

    def key(self, input_digest: str, shard: int = 0) -> str:
        return self.task.key(input_digest + self._salt, shard)

    def find(self, key: str) -> Batch | None:
        """
        Return the batch that an earlier try made of the same input; None if it has no answers and gets none.

        It may have ended early, with answers that are paid for.
        """
        if self.ledger is None:
            return None
        batch = self._usable(self.ledger, key)
        if batch is None:
            self._log.info(
                "No batch of an earlier try can be used; looking for %.0f s, because the list may lag",
                self.service.recovery_seconds,
            )
        while batch is None and self.ledger.look_again():
            self.cancel_outdated(self._asked)
            batch = self._usable(self.ledger, key)
        if batch:
            if batch.id in self.ledger.renamed:
                self._log.warning(
                    "Batch %s was made where [openai_batches] deployment_id and [api] base_url were not as "
                    "they are here. Set deployment_id, to the same on all nodes of this Airflow",
                    batch.id,
                )
            metrics.batch_adopted(batch)
            self._log.info(
                "Batch %s of an earlier try is %s: it is used, nothing is sent", batch.id, batch.status
            )
            if not batch.is_over:
                self.known.add(batch.id)
        return batch

    def _usable(self, ledger: Ledger, key: str) -> Batch | None:
        if not self._reuse:
            return None
        ledger.settle(key)
        return choose(ledger.batches, key)

    def cancel_outdated(self, keys: set[str]) -> None:
        """Cancel the batches that earlier tries left running, if this try no longer asks for them."""
        self._asked = keys
        if self.ledger is None:
            return
        for batch in self.ledger.outdated(keys):
            if self.service.stopped:
                raise TaskKilled(f"The task is being stopped: batch {batch.id} of an earlier try still runs.")
            self._log.warning("Batch %s still runs for an input of an earlier try; cancelling it", batch.id)
            self.ledger.note(self.service.cancel_batch(batch.id))

    def submit_file_id(self, spec: BatchSpec, key: str, input_file_id: str) -> Batch:
        """Create the batch of a file that was already uploaded."""
        older = [batch.id for batch in self.ledger.with_key(key)] if self.ledger else []
        if self.ledger and self._reuse and (unknown := self.ledger.unknown(input_file_id)):
            raise unknown_batch(unknown)
        self.pending[key] = time.time()
        try:
            batch = self.service.create_batch(
                input_file_id,
                spec.endpoint,
                spec.completion_window,
                self.task.metadata(key, spec.metadata),
                spec.output_expires_after,
                older=older,
            )
        except (APIError, TaskKilled):
            # The service refused, or nothing was sent, so there is no batch. After other errors there may be.
            del self.pending[key]
            raise
        except BaseException:
            self._answer_lost = True
            raise
        self.known.add(batch.id)
        del self.pending[key]
        if self._killed:
            self._canceller(CANCEL_SECONDS).cancel([batch.id])
            raise TaskKilled(f"The task was stopped while batch {batch.id} was created; it is cancelled.")
        metrics.batch_created(batch)
        self._log.info("Batch %s created: %s, %s", batch.id, spec.endpoint, batch.status)
        return batch

    def submit_file(
        self,
        spec: BatchSpec,
        key: str,
        source: Any,
        expires_after: int | Mapping[str, Any] | None = None,
    ) -> Batch:
        """Upload a file, or find it where an earlier try left it, and create its batch."""
        name = file_name(key)
        if known := self._known_file(key, name):
            try:
                self._log.info("Input file %s of an earlier try is used again", known)
                return self.submit_file_id(spec, key, known)
            except APIError as error:
                if not retry.is_unusable(error):
                    raise
                self._log.info("Input file %s cannot be used any more (%s); uploading it again", known, error)
        file = self.service.upload_file(source, name, expires_after)
        self._log.info("Input file %s uploaded: %s bytes", file.id, file.bytes)
        return self._after_upload(lambda: self.submit_file_id(spec, key, file.id))

    def _known_file(self, key: str, name: str) -> str | None:
        if self.ledger is None or not self._reuse:
            return None
        named = (batch.input_file_id for batch in self.ledger.with_key(key))
        return next((file_id for file_id in named if file_id), None) or self.ledger.files.get(name)

    def _after_upload(self, create: Callable[[], Batch]) -> Batch:
        """A file can need a moment after its upload before a batch may use it."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(retry.is_file_not_ready),
            stop=tenacity.stop_after_attempt(FILE_ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=1),
            sleep=self.service.sleep,
            reraise=True,
        )
        return retrying(create)

    def kill(self) -> None:
        """Start nothing new, and cancel all that this task has running, known or not yet known."""
        self._killed = True
        self.service.stop()
        unseen = self.ledger.unseen_since if self.ledger else None
        unknown = unseen is not None and not self.known
        seconds = SEARCH_SECONDS if self.pending or unknown else CANCEL_SECONDS
        if self._answer_lost:
            seconds = max(seconds, self.service.recovery_seconds)
        canceller = self._canceller(seconds)
        canceller.cancel(self.known)
        since = [*self.pending.values(), *([] if unseen is None else [unseen])]
        if since:
            older = self.ledger.seen if self.ledger else ()
            canceller.find_and_cancel(self.task, set(self.pending), min(since), older=older, unseen=unknown)

    def _canceller(self, seconds: float) -> Canceller:
        return Canceller(self.service.sibling(), self._log, seconds)
