"""A row that is asked live: its request, the tries that it had, and the memory that its answer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.api.live import ask

if TYPE_CHECKING:
    import asyncio

    from airflow_provider_openai_batches.api.config import ClientConfig

BYTES_PER_TOKEN = 4


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


class LiveRow:
    """
    A row that is being asked.

    :param data: its request line.
    :param places: there is one for each large answer that may be held.
    """

    def __init__(self, data: bytes, endpoint: str, config: ClientConfig, places: asyncio.Semaphore) -> None:
        line = msgspec.json.decode(data, type=_Line)
        body = bytes(line.body)
        self.custom_id = line.custom_id
        self.request = ask(endpoint, body, config)
        self.tokens = max(1.0, len(body) / BYTES_PER_TOKEN)
        self.limited = self.failures = 0
        self.limited_at = 0.0
        self.is_limited = False  # whether the last request was answered 429
        self.is_unsure = False  # whether it may have been carried out although its answer is lost
        self._places = places
        self._is_large = False

    async def enlarge(self) -> None:
        """Wait until its answer may be large."""
        if not self._is_large:
            await self._places.acquire()
            self._is_large = True

    def release(self) -> None:
        """Let another answer be large: this one is not held any more."""
        if self._is_large:
            self._is_large = False
            self._places.release()
