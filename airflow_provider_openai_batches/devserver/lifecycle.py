"""
Takes a batch from its creation to its end: validating, in progress, finalizing, over.

The status follows from the clock. It is brought up to date when somebody asks for the batch, and by timers in
the worker thread. Only reading the input file and writing the result files takes real work.
https://developers.openai.com/api/docs/guides/batch#4-check-the-status-of-a-batch
"""

from __future__ import annotations

import threading
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.devserver.batch_view import batch_view, requests_done
from airflow_provider_openai_batches.devserver.errors import ApiError
from airflow_provider_openai_batches.devserver.results import BatchDropped, ResultWriter, write_results
from airflow_provider_openai_batches.devserver.statuses import can_be_cancelled, is_over
from airflow_provider_openai_batches.devserver.upstream import Upstream, send_requests
from airflow_provider_openai_batches.devserver.validation import PassingFailures, check_file
from airflow_provider_openai_batches.devserver.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver.clock import BatchClock
    from airflow_provider_openai_batches.devserver.files import FileStore
    from airflow_provider_openai_batches.devserver.objects import BatchObject
    from airflow_provider_openai_batches.devserver.settings import Settings
    from airflow_provider_openai_batches.devserver.store import InputCheck, StoredBatch, WrittenResults
    from airflow_provider_openai_batches.devserver.tally import Tally

# As fractions of a batch's seconds: when it becomes in_progress, when it becomes finalizing, and how long it
# stays finalizing or cancelling.
VALIDATED_AT, EXECUTED_AT, ENDING_TAKES = 0.1, 0.9, 0.1
SENDER_TIMEOUT = 5.0
ORGANIZATION = "org-devserver"
FORCED_ERROR = {"code": "server_error", "line": None, "message": "Forced to fail.", "param": None}


class Lifecycle:
    def __init__(
        self,
        settings: Settings,
        clock: BatchClock,
        files: FileStore,
        tally: Tally,
        upstream: Upstream | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.running: dict[str, StoredBatch] = {}
        self._settings = settings
        self._clock = clock
        self._files = files
        self._tally = tally
        self._upstream = upstream
        self._worker = Worker(clock)
        self._senders: list[threading.Thread] = []
        self._steps: dict[str, Callable[[StoredBatch], bool]] = {
            "validating": self._validating,
            "in_progress": self._in_progress,
            "finalizing": self._finalizing,
            "cancelling": self._cancelling,
        }

    def begin(self, record: StoredBatch) -> None:
        """Start processing a batch that was just created."""
        self.running[record.wire.id] = record
        self._worker.submit(partial(self._check, record))
        self._set_validated(record)

    def wake(self) -> None:
        """Bring every batch up to date, because the clock may be running again."""
        for record in list(self.running.values()):
            self.advance(record)
        self._worker.wake()

    def reset(self) -> None:
        self._worker.clear()
        for record in self.running.values():
            record.dropped = True
        self.running.clear()

    def close(self) -> None:
        with self.lock:
            self.reset()
        self._worker.close()
        for thread in self._senders:
            thread.join(SENDER_TIMEOUT)

    def _set_validated(self, record: StoredBatch) -> None:
        """Set when the validation ends."""
        takes = VALIDATED_AT * record.seconds if record.validating is None else record.validating
        record.due = record.start + takes
        self._worker.submit(partial(self.advance, record), record.due)

    # The work: reading the input file and writing the result files, outside the lock

    def _check(self, record: StoredBatch) -> None:
        if record.dropped or record.input is None:
            return
        settings = self._settings
        share = settings.failing_share_of(record.number) if self._upstream is None else 0.0
        check = check_file(
            record.input,
            record.wire.endpoint,
            seed=settings.seed,
            runs=self._tally.executed,
            failures=PassingFailures(share, settings.failing_statuses, settings.seed),
        )
        with self.lock:
            if record.input is None:  # in the meantime a test has ended the batch
                return
            self._check_token_limit(check)
            record.check = check
            record.wire.model = check.model
            record.total = 0 if check.errors else check.total
            record.requests, record.tokens = check.total, check.tokens
            if record.per_request and not check.errors:
                record.seconds += record.per_request * check.total
                self._set_validated(record)
            self.advance(record)

    def _check_token_limit(self, check: InputCheck) -> None:
        settings = self._settings
        limit = settings.enqueued_token_limits.get(check.model or "", settings.enqueued_token_limit)
        if limit is None or check.errors:
            return
        enqueued = sum(
            other.check.tokens
            for other in self.running.values()
            if other.check is not None and not other.check.errors and other.check.model == check.model
        )
        if enqueued + check.tokens > limit:
            number = f"{limit:,}" if settings.limit_with_commas else f"{limit}"
            text = (
                f"Enqueued token limit reached for {check.model} in organization {ORGANIZATION}. "
                f"Limit: {number} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            check.errors.append(
                {"code": "token_limit_exceeded", "line": None, "message": text, "param": None}
            )

    def _produce(self, record: StoredBatch) -> None:
        """Start writing the result files, only once. With an upstream, start sending the requests."""
        if record.producing:
            return
        record.producing = True
        writer = ResultWriter(record, self._files, self._tally)
        if self._upstream is not None and record.check is not None and not record.check.errors:
            record.sent = writer.outcomes
            send = partial(send_requests, record, writer, self._upstream)
            thread = threading.Thread(target=self._write, args=(record, writer, send), daemon=True)
            self._senders = [*(sender for sender in self._senders if sender.is_alive()), thread]
            thread.start()
        else:
            if record.done is None:
                record.done = record.total
            write = partial(write_results, record, writer)
            self._worker.submit(partial(self._write, record, writer, write))

    def _write(self, record: StoredBatch, writer: ResultWriter, write: Callable[[], WrittenResults]) -> None:
        try:
            results = write()
        except BatchDropped:
            return writer.discard()
        with self.lock:
            if not record.dropped:
                record.results = results
                self.advance(record)
        return None

    # The steps from one status to the next; each returns whether the status has changed

    def advance(self, record: StoredBatch) -> None:
        """Bring the status up to date."""
        with self.lock:
            held = self._settings.freeze and not record.rush
            while not (held or record.stuck or record.dropped):
                step = self._steps.get(record.wire.status)
                if step is None or not step(record):
                    return

    def _is_due(self, record: StoredBatch) -> bool:
        return record.rush or self._clock.now() >= record.due

    def _become(self, record: StoredBatch, status: str) -> None:
        record.wire.status = status
        if hasattr(record.wire, stamp := f"{status}_at"):
            setattr(record.wire, stamp, int(self._clock.wall()))

    def _validating(self, record: StoredBatch) -> bool:
        if record.check is None or not self._is_due(record):
            return False
        if record.check.errors:
            self._end(record, "failed")
            return True
        self._become(record, "in_progress")
        record.running_since = self._clock.now()
        record.due = max(record.running_since, record.start + EXECUTED_AT * record.seconds)
        if self._upstream is not None:
            self._produce(record)
        self._worker.submit(partial(self.advance, record), min(record.due, record.expires))
        return True

    def _in_progress(self, record: StoredBatch) -> bool:
        if record.ending is None and self._clock.now() >= record.expires:
            record.ending = "expired"
        if record.ending is None:
            executed = self._is_due(record) if self._upstream is None else record.results is not None
            if not executed:
                return False
            record.ending = "completed"
        self._stop_executing(record, "finalizing", record.ending)
        return True

    def _stop_executing(self, record: StoredBatch, status: str, ending: str) -> None:
        """Stop executing requests: settle how many were executed, and write the results."""
        now = self._clock.now()
        record.done = record.total if ending == "completed" else requests_done(record, now)
        record.ending = ending
        record.due = now + ENDING_TAKES * record.seconds
        if ending == "completed":
            record.due = max(now, record.start + record.seconds)
        self._become(record, status)
        self._produce(record)
        self._worker.submit(partial(self.advance, record), record.due)

    def _can_end(self, record: StoredBatch) -> bool:
        """Whether the results are written, and the batch is due."""
        if record.check is not None or record.seeded:
            self._produce(record)
        return record.results is not None and self._is_due(record)

    def _finalizing(self, record: StoredBatch) -> bool:
        if not self._can_end(record):
            return False
        ending = record.ending or "completed"
        expiring = record.check is not None and record.check.expiring
        self._end(record, "expired" if ending == "completed" and expiring else ending)
        return True

    def _cancelling(self, record: StoredBatch) -> bool:
        if not self._can_end(record):
            return False
        self._end(record, "cancelled")
        return True

    def _end(self, record: StoredBatch, status: str) -> None:
        self._become(record, status)
        if status == "failed":
            errors = record.check.errors if record.check is not None else []
            record.wire.errors = {"object": "list", "data": errors or [FORCED_ERROR]}
        if record.results is not None:
            record.wire.usage = record.results.usage
        record.over_at = self._clock.now()
        record.check = None
        self.running.pop(record.wire.id, None)
        if record.input is not None:
            self._files.release(record.input)
            record.input = None
        if record.over is not None:
            record.over.set()

    # What clients and tests ask for

    def show(self, record: StoredBatch) -> BatchObject | dict[str, Any]:
        """The batch as an answer shows it, up to date."""
        self.advance(record)
        return batch_view(record, self._settings, self._clock.now())

    def cancel(self, record: StoredBatch) -> None:
        """
        https://developers.openai.com/api/reference/resources/batches/methods/cancel

        :raises ApiError: 409 if the batch is over.
        """
        self.advance(record)
        status = record.wire.status
        if not can_be_cancelled(status):
            text = f"Cannot cancel a batch with status '{status}'."
            raise ApiError(HTTPStatus.CONFLICT, text, code="batch_not_cancellable")
        if status != "cancelling":
            record.stuck = record.stuck and not record.seeded
            self._stop_executing(record, "cancelling", "cancelled")
            self.advance(record)

    def force(
        self, record: StoredBatch, status: str | None, after: float | None, *, stuck: bool | None
    ) -> None:
        """
        Give the batch a status. It keeps that status if it is stuck, and goes on from it otherwise.

        :param status: a terminal one is reached once the results are written: wait on ``record.over``.
        :param after: the fraction of the requests that have been executed by then.
        """
        self.advance(record)
        record.portion = after if after is not None else record.portion
        record.stuck = record.stuck if stuck is None else stuck
        if status is None:
            return
        if not is_over(status):
            self._become(record, status)
        elif status == "failed" or record.seeded or record.wire.id not in self.running:
            self._end(record, status)
        else:
            record.stuck, record.rush, record.over = False, True, threading.Event()
            self._rush(record, status)
        self.advance(record)

    def _rush(self, record: StoredBatch, ending: str) -> None:
        if record.wire.status not in self._steps:
            record.wire.status = "in_progress"
        if ending == "cancelled" and record.check is not None:
            self._stop_executing(record, "cancelling", ending)
        record.ending = ending
