"""A sensor for a batch that another task or a person submitted."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_openai_batches.api import retry
from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID
from airflow_provider_openai_batches.api.validation import check_id, check_interval
from airflow_provider_openai_batches.exceptions import BatchError, BatchTimeout, OpenAIBatchesError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.links import (
    OpenAIBatchJobLink,
    OpenAIBatchLink,
    store_batch_link,
    store_link_to_origin,
)
from airflow_provider_openai_batches.observability import traces
from airflow_provider_openai_batches.operators.base import TimeLimited, raise_unless_good
from airflow_provider_openai_batches.pricing.account import say_costs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_openai_batches.api.models import Batch


class OpenAIBatchSensor(TimeLimited, BaseSensorOperator):
    """
    Wait until a batch has ended.

    It fails at once, without using up retries, when the batch failed, expired or was cancelled, or when
    ``timeout`` has passed; after an ``execution_timeout`` it is retried, in every mode.

    :param batch_id: the batch's id. (templated)
    :param openai_conn_id: an Airflow connection of type ``openai_batches`` or ``openai``; default:
        ``openai_batches_default``. (templated)
    :param poll_interval: seconds between two polls of the batch, in every mode.
    :param deferrable: wait in the triggerer; if False, ``mode`` says how (``poke`` or ``reschedule``).
    :param kwargs: what every sensor takes, such as ``timeout`` and ``soft_fail``. None of this cancels the
        batch.
    :return: the batch as a dict.
    """

    template_fields: Sequence[str] = ("batch_id", "openai_conn_id")
    operator_extra_links = (OpenAIBatchLink(), OpenAIBatchJobLink())
    ui_color = "#e8f5f0"

    def __init__(
        self,
        *,
        batch_id: str,
        openai_conn_id: str = DEFAULT_CONN_ID,
        poll_interval: float = 60.0,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("poke_interval", check_interval(poll_interval, "poll_interval"))
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.openai_conn_id = openai_conn_id
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self._knows_origin = False

    @cached_property
    def hook(self) -> OpenAIBatchesHook:
        return OpenAIBatchesHook(self.openai_conn_id)

    def execute(self, context: Context) -> Any:
        check_id(self.batch_id, "batch_id")
        store_batch_link(context, self.hook.config, self.batch_id)
        store_link_to_origin(context, self.openai_conn_id, self.batch_id)
        if not self.deferrable:
            return super().execute(context)
        batch = self._look(context)
        if batch is not None and batch.is_over:
            return self._finish(context, batch)
        return self._defer(context, time.time() + self.timeout)

    def poke(self, context: Context) -> PokeReturnValue:
        batch = self._look(context)
        if batch is None or not batch.is_over:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(context, batch))

    def _look(self, context: Context) -> Batch | None:
        """Return the batch, or None while the service has a temporary fault."""
        try:
            batch = self.hook.retrieve_batch(self.batch_id)
        except OpenAIBatchesError as error:
            if not retry.may_repeat("retrieve_batch", error):
                raise AirflowFailException(f"Batch {self.batch_id} cannot be watched: {error}") from error
            self.log.warning("Batch %s cannot be retrieved at the moment: %s", self.batch_id, error)
            return None
        self.log.info("Batch %s is %s", batch.id, batch.status)
        if not self._knows_origin:
            store_link_to_origin(context, self.openai_conn_id, batch.id, batch)
            self._knows_origin = True
        return batch

    def _defer(self, context: Context, end_time: float | None) -> None:
        from airflow_provider_openai_batches.triggers.openai_batches import (  # noqa: PLC0415 - not when a DAG is parsed
            OpenAIBatchTrigger,
        )

        trigger = OpenAIBatchTrigger(
            openai_conn_id=self.openai_conn_id,
            batch_ids=[self.batch_id],
            poll_interval=self.poll_interval,
            end_time=end_time,
        )
        self.defer_in_time(context, trigger, "execute_complete", end_time=end_time)

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        end_time: float | None = None,
    ) -> Any:
        """Continue when the wait has ended; ``dag.test()`` does not pass the ``end_time`` on."""
        if event["status"] == "error":
            return self._fail(AirflowFailException(event["message"]))
        if event["status"] == "timeout":
            limit = self.must_end(context)
            is_its_own = limit is None or end_time is None or end_time <= limit
            return self._fail((AirflowSensorTimeout if is_its_own else BatchTimeout)(event["message"]))
        batch = self._look(context)
        return self._finish(context, batch) if batch is not None else self._defer(context, end_time)

    def on_no_event(self, context: Context) -> None:
        said = "The execution_timeout is over, and no triggerer has ended the wait. Is the triggerer running?"
        self._fail(BatchTimeout(said))

    def _finish(self, context: Context, batch: Batch) -> dict[str, Any]:
        batch = self.hook.settled(batch)
        prices = say_costs([batch], self.hook.config, self.log.info)
        traces.batches_over([batch], context, self.hook.config, prices, self.carrier)
        try:
            raise_unless_good(self.hook, batch)
        except BatchError as error:
            self._fail(AirflowFailException(str(error)), error)
        return batch.to_dict()

    def _fail(self, error: Exception, cause: Exception | None = None) -> None:
        """Fail, or skip where ``soft_fail`` or ``never_fail`` asks for it."""
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(str(error)) from cause
        raise error from cause
