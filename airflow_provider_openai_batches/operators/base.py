"""What all operators share: the hook, the task's identity, and one way to wait."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from abc import abstractmethod
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import BaseOperator, conf
from airflow.sdk.bases.operator import TriggerFailureReason

from airflow_provider_openai_batches.api import outcome, retry
from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID
from airflow_provider_openai_batches.api.validation import check_interval
from airflow_provider_openai_batches.compat.supervisor import task_state
from airflow_provider_openai_batches.exceptions import BatchTimeout, OpenAIBatchesError, TaskKilled
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.idempotency import cancel
from airflow_provider_openai_batches.idempotency.keys import UNNAMED, TaskIdentity
from airflow_provider_openai_batches.observability import metrics, traces
from airflow_provider_openai_batches.pricing.account import say_costs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.pricing.prices import Prices
    from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger

    _Operator = BaseOperator
else:
    _Operator = object

# The trigger ends the wait at the execution_timeout, and the operator then sees to the batch. If no triggerer
# runs, Airflow ends the deferral this much later.
AIRFLOW_WAITS = timedelta(minutes=5)
# What a try knows when it is resumed: its number, when it began (Airflow 3.0 and 3.1 give the time of the
# resumption as the task's start), when batch_timeout ends its wait (both in Unix seconds), whether its
# batches may be another Airflow's, so that none of them is cancelled, and the task's span in traces.
_CARRIED = ("_of_try", "_try_began", "_wait_ends", "_may_be_anothers", "carrier")


def deployment_id() -> str:
    """Return what tells this Airflow's batches from those of another one on the same API key."""
    return str(conf.get("openai_batches", "deployment_id", fallback="") or _guess())


def _guess() -> str:
    """Return what stands for the id of a deployment that was given none; it may differ between its nodes."""
    guesses = (("api", "base_url"), ("core", "execution_api_server_url"))
    urls = (conf.get(section, option, fallback="") for section, option in guesses)
    return f"{UNNAMED}{next(filter(None, urls), socket.gethostname())}"


def runs_on_one_machine() -> bool:
    """Whether all workers of this Airflow see the same disk, as far as its executors tell."""
    executors = {name.strip().rpartition(".")[2] for name in str(conf.get("core", "executor")).split(",")}
    return executors <= {"LocalExecutor", "SequentialExecutor"}


@cache
def _warn_of_no_id() -> None:
    logging.getLogger(__name__).warning(
        "[openai_batches] deployment_id is not set, and tasks run on several machines. Set it to the same "
        "value on all of them. Without it, a try under another [api] base_url finds the batches of earlier "
        "tries by the names of DAG, run and task alone, and cancels none of them"
    )


def task_identity(context: Context, given_id: str = "") -> TaskIdentity:
    """
    Return the task, which finds its batches by this.

    :param given_id: the deployment's id when the try began; default: what it is now.
    """
    ti = context["ti"]
    deployment = given_id or deployment_id()
    if deployment.startswith(UNNAMED) and not runs_on_one_machine():
        _warn_of_no_id()
    map_index = ti.map_index if ti.map_index is not None else -1
    return TaskIdentity(deployment, ti.dag_id, ti.run_id, ti.task_id, map_index, _guess())


def search_since(context: Context) -> float | None:
    """Return the Unix time since when earlier tries may have left batches; None on the first try."""
    return None if context["ti"].try_number <= 1 else began(context)


def began(context: Context) -> float:
    """Return the Unix time before which the DAG run has no batch."""
    return context["dag_run"].run_after.timestamp()


def raise_unless_good(hook: OpenAIBatchesHook, batch: Batch) -> None:
    """
    Raise an error for a batch that has ended without results.

    :raises BatchFailed: also if every single request failed; the message contains the first errors.
    :raises BatchExpired: if the window ended first.
    :raises BatchCancelled: if it was cancelled.
    """
    if batch.is_good:
        return
    first_errors: list[str] = []
    if batch.status == "completed" and batch.error_file_id:
        try:
            first_errors = outcome.describe_errors(hook.first_lines(batch.error_file_id))
        except OpenAIBatchesError as failure:
            hook.log.warning("The first errors of batch %s cannot be read: %s", batch.id, failure)
    if error := outcome.error_of(batch, first_errors):
        raise error


def has_answers(hook: OpenAIBatchesHook, batch: Batch) -> bool:
    """Whether a batch that ended early has answers: some services name an output file that is empty."""
    if not batch.may_have_answers or batch.counts.completed > 0:
        return batch.may_have_answers
    try:
        return bool(hook.first_lines(str(batch.output_file_id), 1))
    except OpenAIBatchesError as failure:
        hook.log.warning("The answers of batch %s cannot be read: %s", batch.id, failure)
        return True


class TimeLimited(_Operator):
    """Holds a deferred task to its ``execution_timeout``, which Airflow leaves to the operators."""

    _of_try: int | None = None
    _try_began: float | None = None
    _wait_ends: float | None = None
    _may_be_anothers: bool | None = None
    carrier: dict[str, str] | None = None

    def must_end(self, context: Context) -> float | None:
        """Return the Unix time at which the ``execution_timeout`` of this try is over."""
        if self.execution_timeout is None:
            return None
        if self._try_began is None:
            start = getattr(context["ti"], "start_date", None)
            self._try_began = start.timestamp() if start else time.time()
        return self._try_began + self.execution_timeout.total_seconds()

    def defer_in_time(
        self, context: Context, trigger: OpenAIBatchTrigger, method_name: str, **kwargs: Any
    ) -> NoReturn:
        """Defer, and be resumed with the event ``timeout`` when the ``execution_timeout`` is over."""
        limit, timeout = self.must_end(context), None
        if limit is not None:
            trigger.end_time = limit if trigger.end_time is None else min(limit, trigger.end_time)
            timeout = timedelta(seconds=max(0.0, limit - time.time())) + AIRFLOW_WAITS
        self._of_try = context["ti"].try_number
        self.carrier = self.carrier or traces.carrier_of(context["ti"])
        carried = {name: value for name in _CARRIED if (value := getattr(self, name))}
        self.defer(trigger=trigger, method_name=method_name, kwargs={**kwargs, **carried}, timeout=timeout)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        kwargs = dict(next_kwargs or {})
        for name in _CARRIED:
            setattr(self, name, kwargs.pop(name, None))
        if self._of_try not in {None, context["ti"].try_number}:
            # Airflow 3.0 begins a retry with the last event of the try before.
            self._of_try = self._try_began = self._wait_ends = self._may_be_anothers = self.carrier = None
            return self.execute(context)
        if kwargs.get("error") == TriggerFailureReason.TRIGGER_TIMEOUT:
            self.on_no_event(context)
        return super().resume_execution(next_method, kwargs, context)

    @abstractmethod
    def on_no_event(self, context: Context) -> None:
        """End a task whose deferral Airflow has ended, because no triggerer did so in time."""


@contextmanager
def no_retry_of_bad_input() -> Iterator[None]:
    """Fail the task at once, whatever its ``retries``, for input that another try would refuse too."""
    try:
        yield
    except Exception as error:
        from airflow_provider_openai_batches.operators.inference_faults import fail_for_good  # noqa: PLC0415 - rarely needed

        fail_for_good(error)
        raise


class BatchOperator(BaseOperator):
    """An operator that uses an Airflow connection to the service."""

    ui_color = "#e8f5f0"

    def __init__(self, *, openai_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.openai_conn_id = openai_conn_id

    @cached_property
    def hook(self) -> OpenAIBatchesHook:
        return OpenAIBatchesHook(self.openai_conn_id)


class WaitingOperator(TimeLimited, BatchOperator):
    """
    An operator that may wait for batches.

    :param deferrable: wait in the triggerer; if False, wait in the worker and hold its slot.
    :param poll_interval: seconds between two polls of the batch.
    :param batch_timeout: seconds to wait at most; default: an hour past the batch's ``expires_at``. The
        ``execution_timeout`` ends the wait of a deferred task in the same way.
    :param cancel_on_kill: cancel the batch when the task is stopped for good.
    """

    cancel_on_timeout = False

    def __init__(
        self,
        *,
        deferrable: bool = True,
        poll_interval: float = 60.0,
        batch_timeout: float | None = None,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.poll_interval = check_interval(poll_interval, "poll_interval")
        self.batch_timeout = None if batch_timeout is None else check_interval(batch_timeout, "batch_timeout")
        self.cancel_on_kill = cancel_on_kill
        self._batch_ids: list[str] = []
        self._ti: Any = None

    def wait_for(self, context: Context, batch_ids: list[str], method_name: str = "execute_complete") -> Any:
        """Wait for batches, then continue in :meth:`execute_complete`, or in another method like it."""
        self._batch_ids = batch_ids
        self._wait_ends = None if self.batch_timeout is None else time.time() + self.batch_timeout
        return self._wait(context, method_name)

    def _trigger(self, batch_ids: list[str], end_time: float | None, **more: Any) -> OpenAIBatchTrigger:
        from airflow_provider_openai_batches.triggers.openai_batches import OpenAIBatchTrigger  # noqa: PLC0415 - not when a DAG is parsed

        return OpenAIBatchTrigger(
            openai_conn_id=self.openai_conn_id,
            batch_ids=batch_ids,
            poll_interval=self.poll_interval,
            end_time=end_time,
            cancel_on_kill=self.cancel_on_kill and not self._may_be_anothers,
            **more,
        )

    def _wait(self, context: Context, method_name: str = "execute_complete") -> Any:
        self.end_if_killed()
        trigger = self._trigger(self._batch_ids, self._wait_ends)
        if self.deferrable:
            self.defer_in_time(context, trigger, method_name)
        self.hook.close()
        return getattr(self, method_name)(context, asyncio.run(first_event(trigger)))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Continue when the wait has ended."""
        if event["status"] == "error":
            raise OpenAIBatchesError(event["message"])
        self.ready_to_be_killed(context)
        self._batch_ids = list(event["batches"])
        self.end_if_killed()
        if event["status"] == "timeout":
            self.on_timeout(event)
        try:
            batches = [self.hook.settled(self.hook.retrieve_batch(batch_id)) for batch_id in self._batch_ids]
        except OpenAIBatchesError as error:
            if not retry.may_repeat("retrieve_batch", error):
                raise
            self.log.warning("The service became unavailable as the wait ended (%s); waiting again", error)
            return self._wait(context)
        prices = self.say_costs(batches)
        for batch in batches:
            metrics.batch_over(batch, prices)
        traces.batches_over(batches, context, self.hook.config, prices, self.carrier)
        return self.finish(batches)

    def say_costs(self, batches: list[Batch]) -> Prices:
        """Log what batches that ended have cost, and return the prices of their connection."""
        return say_costs(batches, self.hook.config, self.log.info)

    def on_timeout(self, event: dict[str, Any]) -> None:
        """End a task whose deadline passed."""
        raise BatchTimeout(event["message"])

    def on_no_event(self, context: Context) -> None:
        self.ready_to_be_killed(context)
        said = "The execution_timeout is over, and no triggerer has ended the wait. Is the triggerer running?"
        if not self.cancel_on_timeout:
            raise BatchTimeout(f"{said} Nothing is cancelled: what still runs is paid for.")
        cancel.Canceller(self.hook, self.log).find_and_cancel(task_identity(context), set(), began(context))
        raise BatchTimeout(f"{said} What still runs is cancelled; the log names each batch.")

    def finish(self, batches: list[Batch]) -> Any:
        """Return the task's result when its batches have ended."""
        return [batch.to_dict() for batch in batches]

    def ready_to_be_killed(self, context: Context) -> None:
        """Read what :meth:`on_kill` needs: it cannot, because it may have interrupted such a read."""
        _ = self.hook.config
        self._ti = context["ti"]

    def end_if_killed(self) -> None:
        """End a killed task: Airflow lets it run on after :meth:`on_kill`, which may have come too early."""
        if self.hook.stopped and self._cancel_if_over():
            raise TaskKilled("The task was stopped; its running batches are cancelled.")

    def on_kill(self) -> None:
        """Start nothing new, and cancel what is running unless the task continues in another try."""
        self.hook.stop()
        self._cancel_if_over()

    def _cancel_if_over(self) -> bool:
        if not self.cancel_on_kill or self._ti is None:
            return False
        has_tries = self._ti.try_number <= getattr(self._ti, "max_tries", 0)
        stop = cancel.Stop.WITH_TRIES_LEFT if has_tries else cancel.Stop.ON_LAST_TRY
        if not cancel.is_to_be_cancelled(stop, task_state(self._ti, cancel.ASK_SECONDS)):
            self.log.info("This try is stopped, but the task continues: its batches are left running")
            return False
        self.cancel_running()
        return True

    def cancel_running(self) -> None:
        """Cancel the batches that this task has running."""
        if self._batch_ids and not self._may_be_anothers:
            cancel.Canceller(self.hook.sibling(), self.log).cancel(self._batch_ids)


async def first_event(trigger: OpenAIBatchTrigger) -> dict[str, Any]:
    """Run a trigger in this process, and return the payload of its event."""
    async for event in trigger.run():
        payload: dict[str, Any] = event.payload
        return payload
    raise OpenAIBatchesError("The wait ended without an event.")
