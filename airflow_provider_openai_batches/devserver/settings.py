"""The settings that can be changed while the server runs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from airflow_provider_openai_batches.devserver.errors import ApiError

Seconds = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Status = Annotated[int, Meta(ge=300, le=599)]
Limit = Annotated[int, Meta(ge=1)]


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """
    Times are in seconds of the server's clock. A batch keeps those of its creation.

    The package docstring says what each of them does.
    """

    batch_seconds: float = 20.0
    batch_seconds_by_number: list[Seconds | None] = []
    seconds_per_request: Seconds = 0.0
    validating_seconds: Seconds | None = None
    window_seconds: float = 86_400
    latency: float = 0.0
    list_lag_seconds: float = 0.0
    output_id_lag_seconds: float = 0.0
    file_lag_seconds: float = 0.0
    enqueued_token_limit: int | None = None
    enqueued_token_limits: dict[str, int] = {}
    limit_with_commas: bool = True
    failing_share: Share = 0.0
    failing_share_by_number: list[Share | None] = []
    failing_statuses: Annotated[list[Status], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [500, 429]
    )
    clock_speed: Annotated[float, Meta(gt=0)] = 1.0
    api_keys: list[str] = []
    live: bool = True
    live_seconds: Seconds = 0.0
    live_failing: Share = 0.0
    live_failure_status: Status = 500
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    minute_seconds: Annotated[float, Meta(gt=0)] = 60.0
    rate_limit_headers: bool = True
    freeze: bool = False
    list_enabled: bool = True
    omit_nulls: bool = False
    seed: int = 0

    def seconds_of(self, number: int) -> float:
        """How long the batch with this number takes."""
        return _at(self.batch_seconds_by_number, number, self.batch_seconds)

    def failing_share_of(self, number: int) -> float:
        """The fraction of the requests of the batch with this number that fail in passing."""
        return _at(self.failing_share_by_number, number, self.failing_share)

    def patch(self, changes: dict[str, Any]) -> None:
        """
        Apply all ``changes`` or none.

        :raises ApiError: 400 if a setting is unknown or has the wrong type.
        """
        try:
            changed = msgspec.convert({**msgspec.structs.asdict(self), **changes}, Settings)
        except msgspec.ValidationError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"Invalid setting: {error}") from None
        for name in changes:
            setattr(self, name, getattr(changed, name))


def _at(values: list[float | None], number: int, default: float) -> float:
    """The value for a number from 1; null and those that are not listed are the default."""
    found = values[number - 1] if number <= len(values) else None
    return default if found is None else found
