"""The settings of a job, as the user gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api import models, validation
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.api.validation import FailOn
    from airflow_provider_openai_batches.idempotency.submit import BatchSpec
    from airflow_provider_openai_batches.inference.data.job import Limits
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

# The least and the most that each of these settings may be.
_COUNTS: dict[str, tuple[int, int | None]] = {
    "max_requests_per_batch": (1, models.MAX_REQUESTS),
    "max_bytes_per_batch": (1, models.MAX_FILE_BYTES),
    "max_embedding_inputs_per_batch": (1, models.MAX_EMBEDDING_INPUTS),
    "max_active_batches": (1, None),
    "max_enqueued_tokens": (1, None),
    "max_rounds": (0, None),
    "max_requests": (1, None),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a job is run; the operator's docstring explains each field.

    :param spec: what each batch asks of the service.
    :param enqueued_token_limits: those that the connection names, in tokens by model.
    :param deadline_seconds: how long one try may take in total; None: as long as its batches may run.
    :param must_end: the Unix time at which this try has to end in any case.
    """

    spec: BatchSpec
    output: str = "text"
    output_format: str = "jsonl"
    schema: OutputSchema | None = None
    retry_invalid: bool = False
    limits: Limits | None = None
    max_requests: int | None = None
    max_active_batches: int = 100
    max_enqueued_tokens: int | None = None
    enqueued_token_limits: Mapping[str, int] = {}
    max_rounds: int = 3
    fail_on: FailOn = "none"
    overwrite: bool = False
    reuse: bool = True
    delete_input_files: bool = False
    input_expires_after: int | Mapping[str, Any] | None = None
    poll_interval: float = 60.0
    deadline_seconds: float | None = None
    must_end: float | None = None


def check_arguments(given: Any) -> None:
    """
    Refuse what is known to be wrong when the DAG is parsed.

    :param given: has the operator's arguments as attributes.
    :raises InvalidInputError: naming the argument.
    """
    sources = [name for name in ("requests", "input_uri", "sql") if getattr(given, name) is not None]
    if len(sources) != 1:
        said = f"this has {' and '.join(sources) or 'none of them'}"
        raise InvalidInputError(f"Give one of requests, input_uri and sql: {said}.")
    if (given.sql is None) != (given.sql_conn_id is None):
        raise InvalidInputError("sql and sql_conn_id belong together: give both.")
    for name, (least, most) in _COUNTS.items():
        if getattr(given, name) is not None or name not in {"max_requests", "max_enqueued_tokens"}:
            validation.check_count(getattr(given, name), name, least, most)
    validation.check_fail_on(given.fail_on)
    if given.retry_invalid and given.output_schema is None:
        raise InvalidInputError(
            "retry_invalid=True needs an output_schema: without one no answer is invalid."
        )
    for name in ("output_expires_after", "input_expires_after"):
        if getattr(given, name) is not None:
            validation.check_expiry(getattr(given, name), name)
