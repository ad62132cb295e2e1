"""The trigger by which a batch that ends starts a DAG, whoever submitted it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID
from airflow_provider_openai_batches.api.models import TERMINAL_STATUSES
from airflow_provider_openai_batches.api.validation import check_interval, check_metadata, check_text
from airflow_provider_openai_batches.compat.asset_state import Bookmark
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.polling.ends import Ends, Filter, Position, payload_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

# Seconds. An event is in Airflow's database that long after it was fired; only then its batch counts as told.
STORED_AFTER = 4.0
# The position is stored again when it is so many seconds further, although nothing was told.
STORED_EVERY = 3_600
READ_AGAIN_AFTER = 10.0


class OpenAIBatchEndedTrigger(BaseEventTrigger):
    """
    Fire an event for each batch of an account that ends; for an ``AssetWatcher``, not for deferred tasks.

    It needs no batch ids: it watches the list of batches, and never ends. An event's payload is
    ``{"openai_conn_id", "batch_id", "status", "endpoint", "counts", "output_file_id", "error_file_id",
    "metadata"}``, without the pairs of the metadata that this provider adds. A batch that had ended before
    the trigger began starts nothing.

    All triggers of a connection share one request for each poll, however many there are. No fault of the
    service or of the connection ends the watch; the triggerer's log tells of it.

    Since Airflow 3.3 the trigger keeps its position in the state store of its assets. After a restart it goes
    on from there, also with batches that ended while no triggerer ran. If the triggerer dies within the four
    seconds after an event, that event may come again. Before 3.3 the trigger begins anew: what ended while no
    triggerer ran starts nothing.
    https://developers.openai.com/api/reference/resources/batches/methods/list

    :param openai_conn_id: the Airflow connection; none of its secrets are stored with the trigger. Default:
        ``openai_batches_default``.
    :param metadata: only batches whose metadata has these pairs, and perhaps others.
    :param statuses: only batches that end in one of these: ``completed``, ``failed``, ``expired``,
        ``cancelled``. Default: all of them.
    :param include_airflow: also batches of this provider's own tasks, which wait for them in any case; for
        their results there are outlets. A service that gives no metadata back does not tell them apart.
    :param poll_interval: seconds between two looks at the list. If the triggers of a connection have
        different ones, the shortest holds for all.
    """

    def __init__(
        self,
        openai_conn_id: str = DEFAULT_CONN_ID,
        *,
        metadata: Mapping[str, str] | list[list[str]] | None = None,
        statuses: Sequence[str] | None = None,
        include_airflow: bool = False,
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.openai_conn_id = openai_conn_id
        self.metadata = metadata
        self.statuses = statuses
        self.include_airflow = include_airflow
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Return the class path and the arguments, as they are stored in Airflow's database.

        :raises InvalidInputError: naming the argument. It fails the DAG; an error in ``__init__`` would end
            the triggerer.
        """
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {**self._checked(), "poll_interval": check_interval(self.poll_interval, "poll_interval")},
        )

    def _checked(self) -> dict[str, Any]:
        """Return what says which batches are meant, in lists: Airflow changes dicts as it stores them."""
        check_text(self.openai_conn_id, "openai_conn_id")
        statuses = [self.statuses] if isinstance(self.statuses, str) else self.statuses
        if unknown := sorted(set(statuses or ()) - TERMINAL_STATUSES):
            known = ", ".join(sorted(TERMINAL_STATUSES))
            raise InvalidInputError(f"statuses has {unknown[0]!r}; a batch ends as one of {known}.")
        if statuses is not None and not statuses:
            raise InvalidInputError("statuses is empty, so no batch would be told: leave it out to mean all.")
        given = self.metadata or {}
        pairs = check_metadata(dict(given) if isinstance(given, list) else given)
        return {
            "openai_conn_id": self.openai_conn_id,
            "metadata": sorted([name, value] for name, value in pairs.items()),
            "statuses": None if statuses is None else sorted(set(statuses)),
            "include_airflow": bool(self.include_airflow),
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch, and yield an event for each batch that ends."""
        # Imported here, because a DAG file imports this module too.
        from airflow_provider_openai_batches.polling.list_watch import Watcher  # noqa: PLC0415

        means = self._checked()
        statuses = None if means["statuses"] is None else frozenset(means["statuses"])
        wanted = Filter(dict(means["metadata"]), statuses, means["include_airflow"])
        bookmark = Bookmark(self, _key_of(means))
        stored = await self._position(bookmark)
        is_behind = stored is None
        async with Watcher(self.openai_conn_id, Ends(wanted, stored), self.poll_interval) as watcher:
            while True:
                news, position = await watcher.look()
                for batch in news:
                    self.log.info("Batch %s is %s", batch.id, batch.status)
                    yield TriggerEvent(payload_of(batch, self.openai_conn_id))  # type: ignore[no-untyped-call]
                is_behind = is_behind or bool(news) or _is_far_from(stored, position)
                if position and is_behind:
                    await asyncio.sleep(STORED_AFTER if news else 0)
                    if await self._is_kept(bookmark, position):
                        stored, is_behind = position, False

    async def _position(self, bookmark: Bookmark) -> Position | None:
        """Read where the watch is; without that, it would lose or repeat events."""
        while True:
            try:
                value = await bookmark.read()
                return None if value is None else msgspec.convert(value, Position)
            except msgspec.ValidationError as error:
                self.log.warning("The stored position cannot be read (%s); the watch begins anew", error)
                return None
            except Exception as error:  # noqa: BLE001 - Airflow's releases differ in what they raise
                self.log.warning("Airflow does not say where the watch was (%s); asking again", error)
                await asyncio.sleep(READ_AGAIN_AFTER)

    async def _is_kept(self, bookmark: Bookmark, position: Position) -> bool:
        try:
            await bookmark.write(msgspec.to_builtins(position))
        except Exception as error:  # noqa: BLE001 - as above
            self.log.warning("Airflow did not store where the watch is (%s); it will be tried again", error)
            return False
        return True


def _key_of(means: Mapping[str, Any]) -> str:
    """Return the name of the position; triggers of an asset that mean other batches have another one."""
    digest = hashlib.sha256(json.dumps(means).encode()).hexdigest()
    return f"openai_batches.ended.{digest[:16]}"


def _is_far_from(stored: Position | None, position: Position | None) -> bool:
    return bool(stored and position and position.since >= stored.since + STORED_EVERY)
