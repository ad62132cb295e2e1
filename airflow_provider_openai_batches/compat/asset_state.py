"""What a trigger of an asset can keep where no restart loses it; nothing before Airflow 3.3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.compat.supervisor import READ_SECONDS, uncut

if TYPE_CHECKING:
    from airflow.triggers.base import BaseEventTrigger


class Bookmark:
    """
    A value in the state stores of all assets that a trigger watches.

    :param trigger: as the triggerer has prepared it.
    :param key: tells it from the values of other triggers of the same assets.
    """

    def __init__(self, trigger: BaseEventTrigger, key: str) -> None:
        self._key = key
        store = getattr(trigger, "asset_state_store", None)
        # The store itself can be asked only if the trigger watches for a single asset.
        self._stores: list[Any] = [
            one for name in ("_by_name", "_by_uri") for one in getattr(store, name, {}).values()
        ]

    async def read(self) -> Any:
        """Return the value; None if there is none, or no store."""
        for store in self._stores:
            value = await uncut(store.aget(self._key), READ_SECONDS)
            if value is not None:
                return value
        return None

    async def write(self, value: Any) -> None:
        """Store a value, if there is a store."""
        for store in self._stores:
            await uncut(store.aset(self._key, value), READ_SECONDS)
