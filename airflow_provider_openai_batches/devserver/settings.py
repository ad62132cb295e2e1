"""The settings that can be changed while the server runs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from airflow_provider_openai_batches.devserver.errors import ApiError


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Times are in seconds. A batch keeps the ``batch_seconds`` and ``window_seconds`` of its creation."""

    batch_seconds: float = 20.0
    window_seconds: float = 86_400
    latency: float = 0.0
    list_lag_seconds: float = 0.0
    output_id_lag_seconds: float = 0.0
    file_lag_seconds: float = 0.0
    enqueued_token_limit: int | None = None
    api_keys: list[str] = []
    freeze: bool = False
    list_enabled: bool = True
    omit_nulls: bool = False
    seed: int = 0

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
