"""
Gets the one batch of an input: finds the batch that an earlier try left, or uploads and creates.

``POST /batches`` has no idempotency key. So a create is repeated only when the answer proves that nothing was
stored; after any other failure the newest batches are searched for the key that the create carried.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import tenacity

from airflow_provider_openai_batches.api import retry, validation
from airflow_provider_openai_batches.exceptions import APIError, TaskKilled, TransportError
from airflow_provider_openai_batches.idempotency.cancel import CANCEL_SECONDS, SEARCH_SECONDS, Canceller
from airflow_provider_openai_batches.idempotency.keys import METADATA_KEYS, file_name, one_time_key
from airflow_provider_openai_batches.idempotency.ledger import choose, unknown_batch
from airflow_provider_openai_batches.observability import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.idempotency.ledger import Ledger, Search
    from airflow_provider_openai_batches.idempotency.service import Service

FILE_ATTEMPTS = 4


class Creation:
    """
    One create, sent until its batch is known.

    :param send: sends the create, and itself repeats what may be repeated at once.
    :param search: makes what looks for its batch after an answer was lost.
    :param max_attempts: how many times the create is sent at most.
    """

    def __init__(
        self, send: Callable[[], Batch], search: Callable[[], Search], max_attempts: int, log: Log
    ) -> None:
        self._send, self._search, self._max_attempts, self._log = send, search, max_attempts, log

    def run(self) -> Batch:
        """
        Return the batch.

        :raises APIError: if the service refuses it.
        :raises CreateUncertainError: if it remains unknown whether the batch was stored.
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
                search = self._search()
                if batch := search.run(started):
                    metrics.batch_adopted(batch)
                    self._log.info("create_batch: batch %s was stored; it is adopted", batch.id)
                    return batch
                last = error
                self._log.info(
                    "create_batch: no batch with key %s within %.0f s; sending it again",
                    search.key,
                    search.patience,
                )
        raise last


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


class Pending(NamedTuple):
    """
    A create that is not answered yet.

    :param since: Unix seconds.
    :param filename: of its input file; empty if other batches may be made of that file.
    """

    since: float
    file_id: str
    filename: str


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
        self.pending: dict[str, Pending] = {}

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
            self.announce_search("this input")
        while batch is None and self.ledger.look_again():
            self.cancel_outdated(self._asked)
            batch = self._usable(self.ledger, key)
        if batch:
            metrics.batch_adopted(batch)
            self._log.info(
                "Batch %s of an earlier try is %s: it is used, nothing is sent", batch.id, batch.status
            )
            if not batch.is_over:
                self.note_running(batch.id)
        return batch

    def announce_search(self, what: str) -> None:
        """Say in the log for what no batch was found, and that half a minute of silence follows."""
        self._log.info(
            "No batch of an earlier try can be used for %s; looking for %.0f s, because the list may lag",
            what,
            self.service.recovery_seconds,
        )

    def is_own(self, batch_id: str) -> bool:
        """Whether this task has certainly made a batch; if not, it is used, but never cancelled."""
        return self.ledger is None or batch_id not in self.ledger.renamed

    def note_running(self, batch_id: str) -> None:
        """Note that a kill has to cancel a batch of an earlier try, or say that it does not."""
        if self.is_own(batch_id):
            self.known.add(batch_id)
            return
        self._log.warning(
            "Batch %s was made under another [openai_batches] deployment_id or [api] base_url. It is used, "
            "but this task does not cancel it, because another Airflow may have made it. "
            "Set deployment_id, to the same on all nodes of this Airflow",
            batch_id,
        )

    def _usable(self, ledger: Ledger, key: str) -> Batch | None:
        if not self._reuse:
            return None
        ledger.settle(key)
        return choose(ledger.batches, key, ledger.renamed)

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

    def submit_file_id(
        self, spec: BatchSpec, key: str, input_file_id: str, *, is_own_file: bool = False
    ) -> Batch:
        """
        Create the batch of a file that was already uploaded.

        :param is_own_file: whether it was uploaded for this key, so that no other task makes batches of it.
        """
        older = [batch.id for batch in self.ledger.with_key(key)] if self.ledger else []
        if self.ledger and self._reuse and (unknown := self.ledger.unknown(input_file_id)):
            raise unknown_batch(unknown)
        self.pending[key] = Pending(time.time(), input_file_id, file_name(key) if is_own_file else "")
        try:
            batch = self.service.create_batch(
                input_file_id,
                spec.endpoint,
                spec.completion_window,
                self.task.metadata(key, spec.metadata),
                spec.output_expires_after,
                older=older,
                is_own_file=is_own_file,
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
        *,
        says_input: bool = True,
    ) -> Batch:
        """
        Upload a file, or find it where an earlier try left it, and create its batch.

        :param says_input: whether the key says what is in the file; if not, it is uploaded in any case.
        """
        name = file_name(key)
        if says_input and (known := self._known_file(key, name)):
            try:
                self._log.info("Input file %s of an earlier try is used again", known)
                return self.submit_file_id(spec, key, known, is_own_file=True)
            except APIError as error:
                if not retry.is_unusable(error):
                    raise
                self._log.info("Input file %s cannot be used any more (%s); uploading it again", known, error)
        return self.submit_uploaded(spec, key, self._upload(source, name, expires_after))

    def submit_uploaded(self, spec: BatchSpec, key: str, file_id: str) -> Batch:
        """Create the batch of a file that was uploaded for it."""
        return self._after_upload(lambda: self.submit_file_id(spec, key, file_id, is_own_file=True))

    def upload(
        self,
        key: str,
        source: Any,
        expires_after: int | Mapping[str, Any] | None = None,
        *,
        says_input: bool = True,
    ) -> str | None:
        """Upload a file ahead of its create, and return its id; None if an earlier try has left it."""
        name = file_name(key)
        is_known = says_input and self._known_file(key, name)
        return None if is_known else self._upload(source, name, expires_after)

    def _upload(self, source: Any, name: str, expires_after: int | Mapping[str, Any] | None) -> str:
        file = self.service.upload_file(source, name, expires_after)
        self._log.info("Input file %s uploaded: %s bytes", file.id, file.bytes)
        return file.id

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
        since = [each.since for each in self.pending.values()] + ([] if unseen is None else [unseen])
        if since:
            canceller.find_and_cancel(
                self.task,
                set(self.pending),
                min(since),
                files={each.file_id: each.filename for each in self.pending.values()},
                older=self.ledger.seen if self.ledger else (),
                unseen=unknown,
            )

    def _canceller(self, seconds: float) -> Canceller:
        return Canceller(self.service.sibling(), self._log, seconds)
