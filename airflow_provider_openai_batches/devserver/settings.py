"""What can be changed while the server runs, and the clock that batches live by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable


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
        Take over ``changes``, all or none.

        :raises ApiError: if a setting is unknown or of the wrong type.
        """
        try:
            changed = msgspec.convert({**msgspec.structs.asdict(self), **changes}, Settings)
        except msgspec.ValidationError as error:
            raise ApiError(400, f"Unusable setting: {error}") from None
        for name in changes:
            setattr(self, name, getattr(changed, name))


class LifeClock:
    """A clock that can be stopped: while it stands, no batch ages."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.wall = clock
        self._lost = 0.0
        self._stopped_at: float | None = None

    def now(self) -> float:
        return (self.wall() if self._stopped_at is None else self._stopped_at) - self._lost

    def freeze(self, frozen: bool) -> None:
        if frozen and self._stopped_at is None:
            self._stopped_at = self.wall()
        elif not frozen and self._stopped_at is not None:
            self._lost += self.wall() - self._stopped_at
            self._stopped_at = None
