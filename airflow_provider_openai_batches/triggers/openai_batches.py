"""The trigger that waits for batches while their task is deferred."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import tenacity
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_openai_batches.api.retry import has_nothing_to_cancel
from airflow_provider_openai_batches.api.validation import check_id, check_interval
from airflow_provider_openai_batches.compat.supervisor import warm_up
from airflow_provider_openai_batches.exceptions import InvalidInputError, OpenAIBatchesError
from airflow_provider_openai_batches.idempotency.cancel import TRIGGER_CANCEL_SECONDS, TRIGGER_REQUEST_SECONDS
from airflow_provider_openai_batches.polling.progress import JobProgress
from airflow_provider_openai_batches.polling.wait import RETURN_WHEN, Wait
from airflow_provider_openai_batches.triggers import kill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.polling.client import SharedClient
    from airflow_provider_openai_batches.polling.wait import ReturnWhen

# Seconds. Airflow learns up to five seconds late that the process that deferred the task has ended ([workers]
# min_heartbeat_interval), and fails a task that continues before that. Airflow 3.3.2 still does.
# https://github.com/apache/airflow/issues/71580 and 72716
SETTLED_AFTER = 8.0


class OpenAIBatchTrigger(BaseTrigger):
    """
    Wait for batches, and fire one event.

    The event's payload is ``{"status": …, "message": str, "batches": {batch_id: status}}``, and ``status`` is

    * ``finished``: one or all of the batches have ended (``return_when``), or the pause is over;
    * ``timeout``: the deadline passed, and the message says what still runs. Nothing is cancelled;
    * ``error``: waiting cannot help: the service does not know a batch, or refuses the key although the
      connection was read again, or the connection does not exist.

    In a triggerer no event comes within the first 8 seconds: Airflow would fail a task that continues so soon
    after it was deferred.

    Temporary faults (no answer, 408, 429, 5xx, answers that cannot be read) do not end the wait early.
    https://developers.openai.com/api/reference/resources/batches/methods/retrieve

    :param openai_conn_id: the Airflow connection; none of its secrets are stored with the trigger.
    :param batch_ids: the ids of the batches; an empty list is a pause until ``end_time``.
    :param poll_interval: seconds between two polls of a batch.
    :param end_time: the deadline in Unix seconds. None means an hour after the last batch's ``expires_at``,
        or 25 hours after the beginning of the wait where that is unknown.
    :param cancel_on_kill: cancel the batches that have not ended when the task is killed.
    :param return_when: ``ALL_COMPLETED``; ``FIRST_COMPLETED`` to end the wait when any batch has ended;
        ``ONE_LEFT`` to end it when, after a minute or more, one alone has not ended; ``FIRST_EXCEPTION`` for
        the same, or when one has ended and not all of its requests were answered.
    :param progress: what the job had done before, so that the log covers the whole job: any of the whole
        numbers that ``JobProgress`` in ``polling/progress.py`` explains.
    :param max_poll_interval: if given, the interval grows with a batch's age, to 2% of it, up to this many
        seconds.
    """

    def __init__(
        self,
        openai_conn_id: str,
        batch_ids: Sequence[str],
        poll_interval: float = 60.0,
        *,
        end_time: float | None = None,
        cancel_on_kill: bool = False,
        return_when: ReturnWhen = "ALL_COMPLETED",
        progress: Mapping[str, int] | None = None,
        max_poll_interval: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.openai_conn_id = openai_conn_id
        self.batch_ids = list(batch_ids)
        self.poll_interval = poll_interval
        self.end_time = end_time
        self.cancel_on_kill = cancel_on_kill
        self.return_when: ReturnWhen = return_when
        self.progress = dict(progress) if progress else None
        self.max_poll_interval = max_poll_interval
        self._wait: Wait | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as they are stored in Airflow's database."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "openai_conn_id": self.openai_conn_id,
                "batch_ids": self.batch_ids,
                "poll_interval": self.poll_interval,
                "end_time": self.end_time,
                "cancel_on_kill": self.cancel_on_kill,
                "return_when": self.return_when,
                "progress": self.progress,
                "max_poll_interval": self.max_poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, write progress into the task's log, and yield one event."""
        # Imported here, because operators import this module too, and do not need the async client.
        from airflow_provider_openai_batches.polling.poller import Waiter  # noqa: PLC0415 - as said above

        self.logger()  # makes one for the class; one for each of ten thousand triggers takes 20 MB
        if self.cancel_on_kill and self._is_in_a_triggerer:
            warm_up(self.task_instance)
        settled = time.monotonic() + (SETTLED_AFTER if self._is_in_a_triggerer else 0.0)
        try:
            wait = self._wait = self._begin()
        except (InvalidInputError, TypeError, ValueError) as error:
            # Not in __init__: an error there would end the whole triggerer.
            unknown = dict.fromkeys(map(str, self.batch_ids), "unknown")
            await asyncio.sleep(settled - time.monotonic())
            yield _event({"status": "error", "message": str(error), "batches": unknown})
            return
        async with Waiter(self.openai_conn_id, wait) as waiter:
            try:
                while True:
                    for line in await waiter.news():
                        self.log.log(line.level, line.text)
                    if wait.ending:
                        break
                await asyncio.sleep(settled - time.monotonic())
            except asyncio.CancelledError:
                if self.cancel_on_kill:
                    await kill.on_cancellation(self.task_instance, self.cancel_batches)
                raise
        yield _event(wait.payload())

    @property
    def _is_in_a_triggerer(self) -> bool:
        """In ``dag.test()`` a trigger has no id, and there is no executor that could be late."""
        return self.trigger_id is not None

    def _begin(self) -> Wait:
        if self.return_when not in RETURN_WHEN:
            raise InvalidInputError(
                f"return_when is {self.return_when!r}; it must be one of {', '.join(RETURN_WHEN)}."
            )
        if self.max_poll_interval is not None:
            check_interval(self.max_poll_interval, "max_poll_interval")
        return Wait(
            [check_id(batch_id, "batch_ids") for batch_id in self.batch_ids],
            poll_interval=check_interval(self.poll_interval, "poll_interval"),
            now=time.time(),
            end_time=self.end_time,
            return_when=self.return_when,
            job=JobProgress(**self.progress) if self.progress else None,
            max_poll_interval=self.max_poll_interval,
        )

    async def on_kill(self) -> None:
        """
        Airflow 3.3 calls this when a user kills the deferred task, and in some other cases.

        Before 3.3 :func:`.kill.on_cancellation` stands in for it.
        """
        if self.cancel_on_kill:
            await kill.on_kill(self.task_instance, self.cancel_batches)

    async def cancel_batches(self) -> None:
        """
        Cancel the batches that are not known to have ended.

        https://developers.openai.com/api/reference/resources/batches/methods/cancel
        """
        from airflow_provider_openai_batches.polling.client import borrow  # noqa: PLC0415 - as in run()

        running = list(self._wait.pending) if self._wait else self.batch_ids
        async with borrow(self.openai_conn_id) as client:
            await asyncio.gather(*(self._cancel(client, batch_id) for batch_id in running))

    async def _cancel(self, client: SharedClient, batch_id: str) -> None:
        """Cancel one batch within the time that Airflow gives, and log the outcome."""

        async def cancel() -> Batch:
            async with asyncio.timeout(TRIGGER_REQUEST_SECONDS):
                return await client.cancel_batch(batch_id)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_cancel_again),
            stop=tenacity.stop_after_delay(TRIGGER_CANCEL_SECONDS),
            wait=tenacity.wait_fixed(1),
            reraise=True,
        )
        try:
            batch: Batch = await retrying(cancel)
        except (OpenAIBatchesError, TimeoutError) as error:
            why = str(error) or "no answer"
            if _may_cancel_again(error):
                self.log.error("The task was killed, but %s could not be cancelled: %s", batch_id, why)  # noqa: TRY400 - no traceback
            else:
                self.log.info("The task was killed: %s needs no cancelling (%s)", batch_id, why)
        else:
            self.log.info("The task was killed: %s is now %s", batch_id, batch.status)


def _may_cancel_again(error: BaseException) -> bool:
    """Whether the batch may still run."""
    return isinstance(error, (OpenAIBatchesError, TimeoutError)) and not has_nothing_to_cancel(error)


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
