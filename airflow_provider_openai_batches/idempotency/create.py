"""
Create a batch exactly once, although ``POST /batches`` has no idempotency key.

Only an answer that proves that nothing was stored is repeated at once. After any other failure the newest
batches are searched for the key that the create carried.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.api.retry import Verdict, verdict_of
from airflow_provider_openai_batches.exceptions import (
    APIError,
    CreateUncertainError,
    OpenAIBatchesError,
    TransportError,
)
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.observability import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from airflow_provider_openai_batches.api.client import BatchesSession
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.api.retry import Log


class Creation:
    """
    One create and what it takes to be sure of it.

    :param batches_since: lists the batches created at a Unix time or later, newest first.
    :param patience: seconds for which a batch is looked for, because a list may lag behind.
    :param older: ids of batches with the same key that were there before: this create did not make them.
    """

    def __init__(
        self,
        session: BatchesSession,
        batches_since: Callable[[float], Iterable[Batch]],
        *,
        patience: float,
        sleep: Callable[[float], None],
        log: Log,
        older: Collection[str] = (),
    ) -> None:
        self._session = session
        self._batches_since = batches_since
        self._patience = patience
        self._sleep = sleep
        self._log = log
        self._older = frozenset(older)

    def run(self, request: protocol.Request, key: str) -> Batch:
        """
        Send the create until its batch is known.

        :raises APIError: if the service refuses it.
        :raises CreateUncertainError: if it cannot be found out whether the batch was stored.
        """
        for attempt in range(1, self._session.config.max_attempts + 1):
            started = time.time()
            try:
                return self._session.send(request, protocol.read_batch)
            except (APIError, TransportError) as error:
                if verdict_of(request.operation, error) is not Verdict.MAYBE_STORED:
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
        """None only if the last look was at a whole list, after all the patience."""
        waited, pause = 0.0, 0.5
        while True:
            try:
                listed = self._batches_since(started)
                batch = next((b for b in listed if keys.key_of(b) == key and b.id not in self._older), None)
            except OpenAIBatchesError as error:
                if waited >= self._patience:
                    raise CreateUncertainError(
                        "The answer to the creation of a batch was lost, and the list cannot be read to find "
                        f"out whether it was stored ({error}). Nothing was sent again. The task's next try "
                        f"looks for it; by hand, look for a batch with metadata {keys.KEY}={key}."
                    ) from error
                batch = None
            if batch or waited >= self._patience:
                return batch
            self._sleep(pause)
            waited, pause = waited + pause, min(pause * 2, 8.0)
