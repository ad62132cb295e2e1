"""What the user asked for, checked before anything is read or spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from airflow_provider_openai_batches.api import validation
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.idempotency.keys import METADATA_KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_openai_batches.inference.data.job import Limits
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

FailOn = Literal["none", "any"] | float


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a job is run; the operator's docstring explains each field.

    :param deadline_seconds: how long one try may take in all; None: as long as its batches may run.
    """

    endpoint: str
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
    completion_window: str = "24h"
    metadata: Mapping[str, str] = {}
    output_expires_after: int | Mapping[str, Any] | None = None
    input_expires_after: int | Mapping[str, Any] | None = None
    poll_interval: float = 60.0
    deadline_seconds: float | None = None

    def check(self) -> None:
        """
        Refuse what can be refused without reading a row.

        :raises InvalidInputError: with the name of the argument.
        """
        from airflow_provider_openai_batches.inference.data.merge import check_output  # noqa: PLC0415 - not when a DAG is parsed

        validation.check_endpoint(self.endpoint)
        validation.check_text(self.completion_window, "completion_window")
        validation.check_metadata({**self.metadata, **dict.fromkeys(METADATA_KEYS, "")})
        check_output(self.output, self.output_format)
        if self.retry_invalid and self.schema is None:
            raise InvalidInputError(
                "retry_invalid=True needs an output_schema: without one no answer is invalid."
            )


def check_count(value: object, name: str, least: int = 1, most: int | None = None) -> int:
    """Refuse anything but a whole number from ``least`` to ``most``."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, int) or not is_whole or value < least or (most is not None and value > most):
        span = f"{least} or more" if most is None else f"{least} to {most:,}"
        raise InvalidInputError(f"{name} is {value!r}; it must be a whole number, {span}.")
    return value


def check_fail_on(value: object) -> FailOn:
    """Refuse anything but ``none``, ``any`` or a fraction of the rows."""
    if value == "none":
        return "none"
    if value == "any":
        return "any"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise InvalidInputError(
        f"fail_on is {value!r}; it must be 'none', 'any', or a fraction of the rows from 0 to less than 1."
    )
