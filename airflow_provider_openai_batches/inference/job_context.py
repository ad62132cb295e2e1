"""What a job is given: its settings, as an operator has them, and its collaborators."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_openai_batches.exceptions import InvalidConnectionError, InvalidInputError
from airflow_provider_openai_batches.idempotency.submit import BatchSpec
from airflow_provider_openai_batches.inference.data.job import Limits
from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema
from airflow_provider_openai_batches.inference.settings import Settings, answer_by, max_age
from airflow_provider_openai_batches.observability.traces import carrier_of
from airflow_provider_openai_batches.pricing.prices import Prices

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.idempotency.service import Service
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.budget import Budget
    from airflow_provider_openai_batches.inference.outlook import Outlook
    from airflow_provider_openai_batches.inference.purse import Purse
    from airflow_provider_openai_batches.inference.records import Records
    from airflow_provider_openai_batches.inference.workspace import Workspace


class JobContext(NamedTuple):
    """The collaborators of a job."""

    settings: Settings
    submitter: Submitter
    workspace: Workspace
    records: Records
    log: Log
    budget: Budget
    purse: Purse
    outlook: Outlook

    def hold(self, now: float, cancel: Callable[[], list[str]]) -> None:
        """
        Keep the output directory for as long as the batches may run.

        :param now: Unix seconds.
        :param cancel: cancels the batches that run, and says what became of each.
        :raises InvalidInputError: if another task has it now; what still runs is cancelled.
        """
        place, records = self.workspace, self.records
        try:
            place.claim.extend(
                now,
                max([now, *(record.deadline for record in records.active)]),
                # Somebody deleted it, or another task has finished here since.
                if_gone=partial(place.check_target, records.digest, overwrite=self.settings.overwrite),
            )
        except InvalidInputError as error:
            ended = ", ".join(cancel())
            raise InvalidInputError(f"{error}. Cancelled: {ended or 'nothing was running'}.") from error


def config_of(service: Service, *, can_do_without: bool) -> ClientConfig | None:
    """Return what the connection says; None if the task can do without, and there is none."""
    try:
        return service.config
    except (AirflowNotFoundException, InvalidConnectionError):
        if not can_do_without:
            raise
        return None


def try_of(given: Any, ti: Any) -> dict[str, Any]:
    """
    Return the numbers of this try and of the first one since the task was cleared, and the task's span.

    :param given: has the operator's arguments as attributes; Airflow counts its tries on.
    """
    first = int(getattr(ti, "max_tries", 0)) - (given.retries or 0) + 1
    return {"try_number": int(ti.try_number), "first_try": first, "carrier": given.carrier or carrier_of(ti)}


def settings_of(given: Any, config: ClientConfig | None, **more: Any) -> Settings:
    """
    Return the settings that an operator was given, rendered.

    :param given: has the operator's arguments as attributes.
    :param config: what the connection says; None: there is none.
    :param more: what is not one of its arguments.
    :raises InvalidInputError: naming the argument.
    """
    schema = given.output_schema
    same = {name: getattr(given, name) for name in Settings.__struct_fields__ if name in given.__dict__}
    other = {
        "spec": BatchSpec(
            endpoint=given.endpoint,
            completion_window=given.completion_window,
            metadata=given.metadata or {},
            output_expires_after=given.output_expires_after,
        ),
        "output": given.output_kind,
        "limits": Limits(
            max_requests=given.max_requests_per_batch,
            max_bytes=given.max_bytes_per_batch,
            max_embedding_inputs=given.max_embedding_inputs_per_batch,
        ),
        "schema": schema if schema is None else OutputSchema(schema, strict=given.strict),
        "answer_by": answer_by(given.answer_by),
        "answers_max_age": max_age(given.answers_max_age),
        "then": given.then or "live",
        "deadline_seconds": given.batch_timeout,
    }
    if config is not None:
        other |= {"enqueued_token_limits": config.enqueued_token_limits, "prices": Prices.of(config)}
    return Settings(**{**same, **other, **more})
