"""
The life of a batch: validating, in progress, finalizing, over.

A batch's status follows from the clock and is brought up to date whenever somebody looks, or a timer of the
worker thread is due; only reading the input file and writing the result files is work.
https://developers.openai.com/api/docs/guides/batch#4-check-the-status-of-a-batch
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.models import TERMINAL_STATUSES
from airflow_provider_openai_batches.devserver.errors import ApiError
from airflow_provider_openai_batches.devserver.results import Dropped, ResultWriter, write_results
from airflow_provider_openai_batches.devserver.upstream import Sender, Upstream
from airflow_provider_openai_batches.devserver.validation import check_file
from airflow_provider_openai_batches.devserver.worker import Worker

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver.files import FileStore
    from airflow_provider_openai_batches.devserver.settings import LifeClock, Settings
    from airflow_provider_openai_batches.devserver.store import BatchObject, BatchRecord, Results
    from airflow_provider_openai_batches.devserver.tally import Tally

# Where in a batch's life, as fractions of its seconds, validating and running end; and how long an end takes.
VALIDATED, RAN, WIND_UP = 0.1, 0.9, 0.1
SENDER_TIMEOUT = 5.0
FORCED_ERROR = {"code": "server_error", "line": None, "message": "Failed by force.", "param": None}


class Lifecycle:
    def __init__(
        self,
        settings: Settings,
        clock: LifeClock,
        files: FileStore,
        tally: Tally,
        upstream: Upstream | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.running: dict[str, BatchRecord] = {}
        self._settings = settings
        self._clock = clock
        self._files = files
        self._tally = tally
        self._upstream = upstream
        self._worker = Worker(clock)
        self._senders: list[threading.Thread] = []
        self._steps = {
            "validating": self._validating,
            "in_progress": self._in_progress,
            "finalizing": self._finalizing,
            "cancelling": self._cancelling,
        }

    def begin(self, record: BatchRecord) -> None:
        """Start the life of a batch that was just created."""
        self.running[record.wire.id] = record
        record.due = record.start + VALIDATED * record.seconds
        self._worker.submit(partial(self._check, record))
        self._worker.submit(partial(self.advance, record), record.due)

    def wake(self) -> None:
        """The clock runs again: what came due while it stood is due now."""
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

    # The heavy part, in the worker thread

    def _check(self, record: BatchRecord) -> None:
        if record.dropped or record.input is None:
            return
        check = check_file(
            record.input, record.wire.endpoint, seed=self._settings.seed, runs=self._tally.executed
        )
        with self.lock:
            if record.input is None:  # forced to its end meanwhile
                return
            limit = self._settings.enqueued_token_limit
            if limit is not None and not check.errors and self._enqueued(check.model) + check.tokens > limit:
                text = (
                    f"Enqueued token limit reached for {check.model}. Limit: {limit} enqueued tokens. "
                    "Try again once some batches in progress have been completed."
                )
                check.errors.append(
                    {"code": "token_limit_exceeded", "line": None, "message": text, "param": None}
                )
            record.check = check
            record.wire.model = check.model
            record.total = 0 if check.errors else check.total
            self.advance(record)

    def _enqueued(self, model: str | None) -> int:
        return sum(
            other.check.tokens
            for other in self.running.values()
            if other.check is not None and not other.check.errors and other.check.model == model
        )

    def _produce(self, record: BatchRecord) -> None:
        """Have the result files written; with an upstream, have the requests sent."""
        if record.producing:
            return
        record.producing = True
        writer = ResultWriter(record, self._files, self._tally)
        if self._upstream is not None and record.check is not None and not record.check.errors:
            record.sender = Sender(record, writer, self._upstream)
            if record.ending is not None:
                record.sender.stop(record.ending)
            thread = threading.Thread(target=self._send, args=(record, record.sender), daemon=True)
            self._senders = [*(sender for sender in self._senders if sender.is_alive()), thread]
            thread.start()
        else:
            if record.done is None:
                record.done = record.total
            self._worker.submit(partial(self._write, record, writer))

    def _send(self, record: BatchRecord, sender: Sender) -> None:
        try:
            self._finish(record, sender.run())
        except Dropped:
            sender.writer.discard()

    def _write(self, record: BatchRecord, writer: ResultWriter) -> None:
        try:
            self._finish(record, write_results(record, writer))
        except Dropped:
            writer.discard()

    def _finish(self, record: BatchRecord, results: Results) -> None:
        with self.lock:
            if not record.dropped:
                record.results = results
                self.advance(record)

    # The steps of a life; each says whether the status has changed

    def advance(self, record: BatchRecord) -> None:
        """Bring the status up to date."""
        with self.lock:
            held = self._settings.freeze and not record.rush
            while not (held or record.stuck or record.dropped):
                step = self._steps.get(record.wire.status)
                if step is None or not step(record):
                    return

    def _passed(self, record: BatchRecord) -> bool:
        return record.rush or self._clock.now() >= record.due

    def _become(self, record: BatchRecord, status: str) -> None:
        record.wire.status = status
        if hasattr(record.wire, stamp := f"{status}_at"):
            setattr(record.wire, stamp, int(self._clock.wall()))

    def _validating(self, record: BatchRecord) -> bool:
        if record.check is None or not self._passed(record):
            return False
        if record.check.errors:
            self._end(record, "failed")
            return True
        self._become(record, "in_progress")
        record.running_since = self._clock.now()
        record.due = max(record.running_since, record.start + RAN * record.seconds)
        if self._upstream is not None:
            self._produce(record)
        self._worker.submit(partial(self.advance, record), min(record.due, record.expires))
        return True

    def _in_progress(self, record: BatchRecord) -> bool:
        if record.ending is None and self._clock.now() >= record.expires:
            record.ending = "expired"
        if record.ending is None:
            if not (record.results if self._upstream is not None else self._passed(record)):
                return False
            record.ending = "completed"
        self._wind_up(record, "finalizing", record.ending)
        return True

    def _wind_up(self, record: BatchRecord, status: str, ending: str) -> None:
        """No more requests are done; write down what was."""
        now = self._clock.now()
        record.done = record.total if ending == "completed" else self._done(record)
        record.ending = ending
        record.due = now + WIND_UP * record.seconds
        if ending == "completed":
            record.due = max(now, record.start + record.seconds)
        if record.sender is not None and ending != "completed":
            record.sender.stop(ending)
        self._become(record, status)
        self._produce(record)
        self._worker.submit(partial(self.advance, record), record.due)

    def _produced(self, record: BatchRecord) -> bool:
        """Whether the result files are written, and their time has passed; if need be, have them written."""
        if record.check is not None or record.seeded:
            self._produce(record)
        return record.results is not None and self._passed(record)

    def _finalizing(self, record: BatchRecord) -> bool:
        if not self._produced(record):
            return False
        ending = record.ending or "completed"
        expiring = record.check is not None and record.check.expiring
        self._end(record, "expired" if ending == "completed" and expiring else ending)
        return True

    def _cancelling(self, record: BatchRecord) -> bool:
        if not self._produced(record):
            return False
        self._end(record, "cancelled")
        return True

    def _end(self, record: BatchRecord, status: str) -> None:
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

    # What others ask for

    def cancel(self, record: BatchRecord) -> None:
        """
        https://developers.openai.com/api/reference/resources/batches/methods/cancel

        :raises ApiError: 409 if the batch is over.
        """
        self.advance(record)
        status = record.wire.status
        if status in TERMINAL_STATUSES:
            raise ApiError(
                409, f"Cannot cancel a batch with status '{status}'.", code="batch_not_cancellable"
            )
        if status != "cancelling":
            record.stuck = record.stuck and not record.seeded
            self._wind_up(record, "cancelling", "cancelled")
            self.advance(record)

    def force(
        self, record: BatchRecord, status: str | None, after: float | None, *, stuck: bool | None
    ) -> None:
        """
        Set a status, and hold it or go on from it.

        :param status: a terminal one is reached as soon as the results are written; wait on ``record.over``.
        :param after: the fraction of the requests that is done by then.
        """
        self.advance(record)
        record.portion = after if after is not None else record.portion
        record.stuck = record.stuck if stuck is None else stuck
        if status is None:
            return
        if status not in TERMINAL_STATUSES:
            self._become(record, status)
        elif status == "failed" or record.seeded or record.wire.id not in self.running:
            self._end(record, status)
        else:
            record.stuck, record.rush, record.over = False, True, threading.Event()
            self._rush(record, status)
        self.advance(record)

    def _rush(self, record: BatchRecord, ending: str) -> None:
        if record.wire.status not in self._steps:
            record.wire.status = "in_progress"
        if ending == "cancelled" and record.check is not None:
            self._wind_up(record, "cancelling", ending)
        record.ending = ending

    def _done(self, record: BatchRecord) -> int:
        """How many requests are done by now, of those that are done in the batch's order."""
        if record.done is not None:
            return record.done
        if record.portion is not None:
            return round(record.total * record.portion)
        if record.wire.status != "in_progress":
            return 0
        now = self._clock.now()
        span = record.due - record.running_since
        share = (now - record.running_since) / span if span > 0 else 1.0
        return int(record.total * min(1.0, max(0.0, share)))

    def _counts(self, record: BatchRecord) -> dict[str, int]:
        done: Any = record.results or (record.sender and record.sender.writer)
        if done:
            return {"total": record.total, "completed": done.completed, "failed": done.failed}
        count, check = self._done(record), record.check
        if check is None:
            return {"total": record.total, "completed": count, "failed": 0}
        failed = bisect_left(check.failing, count)
        completed = count - failed - bisect_left(check.expiring, count)
        return {"total": record.total, "completed": completed, "failed": failed}

    def show(self, record: BatchRecord) -> BatchObject | dict[str, Any]:
        """The batch as an answer carries it, up to date."""
        self.advance(record)
        wire, results = record.wire, record.results
        if not record.seeded:
            wire.request_counts = self._counts(record)
        lag = self._settings.output_id_lag_seconds
        if results is not None and record.over_at is not None and self._clock.now() >= record.over_at + lag:
            wire.output_file_id = results.output.wire.id if results.output else None
            wire.error_file_id = results.error.wire.id if results.error else None
        if not (record.overrides or self._settings.omit_nulls):
            return wire
        shown: dict[str, Any] = msgspec.to_builtins(wire) | (record.overrides or {})
        if self._settings.omit_nulls:
            return {name: value for name, value in shown.items() if value is not None}
        return shown
