"""The settings of a job, as the user gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.api.validation import FailOn
    from airflow_provider_openai_batches.idempotency.submit import BatchSpec
    from airflow_provider_openai_batches.inference.data.job import Limits
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a job is run; the operator's docstring explains each field.

    :param spec: what each batch asks of the service.
    :param deadline_seconds: how long one try may take in total; None: as long as its batches may run.
    """

    spec: BatchSpec
    output: str = "text"
    output_format: str = "jsonl"
    schema: OutputSchema | None = None
    retry_invalid: bool = False
    limits: Limits | None = None
    max_requests: int | None = None
    max_active_batches: int = 100
    max_rounds: int = 3
    fail_on: FailOn = "none"
    overwrite: bool = False
    reuse: bool = True
    delete_input_files: bool = False
    input_expires_after: int | Mapping[str, Any] | None = None
    poll_interval: float = 60.0
    deadline_seconds: float | None = None
