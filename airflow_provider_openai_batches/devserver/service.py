"""What the routes do: the calls of the API, and the control methods for tests."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.batch_view import span_of
from airflow_provider_openai_batches.devserver.clock import BatchClock
from airflow_provider_openai_batches.devserver.endpoints import CHAT
from airflow_provider_openai_batches.devserver.errors import ApiError, invalid, no_such_batch
from airflow_provider_openai_batches.devserver.faults import Faults
from airflow_provider_openai_batches.devserver.files import FileStore
from airflow_provider_openai_batches.devserver.lifecycle import Lifecycle
from airflow_provider_openai_batches.devserver.limits import DEFAULT_EXPIRY_SECONDS
from airflow_provider_openai_batches.devserver.live import LiveService
from airflow_provider_openai_batches.devserver.objects import BatchObject, new_id, page
from airflow_provider_openai_batches.devserver.statuses import is_over
from airflow_provider_openai_batches.devserver.store import PagedCollection, StoredBatch
from airflow_provider_openai_batches.devserver.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver.settings import Settings
    from airflow_provider_openai_batches.devserver.upstream import Upstream

FORCE_TIMEOUT = 60.0
_encode = msgspec.json.Encoder().encode


class BatchService:
    """
    All files and batches of a server.

    :param clock: the wall clock, in Unix seconds.
    :param upstream: the real API to send the requests to; by default they are answered here.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        folder: Path | None = None,
        upstream: Upstream | None = None,
    ) -> None:
        self.settings = settings
        self.clock = BatchClock(clock)
        self.clock.run(settings.clock_speed)
        self.tally = Tally()
        self.faults = Faults(settings.seed)
        self.files = FileStore(folder, self.clock)
        self.batches: PagedCollection[StoredBatch] = PagedCollection()
        self.lifecycle = Lifecycle(settings, self.clock, self.files, self.tally, upstream)
        self.live = LiveService(settings, clock, forwards=upstream is not None)
        self._initial = msgspec.structs.asdict(settings)
        self._created = 0

    # The calls of the API

    def create_batch(self, params: dict[str, Any]) -> bytes:
        with self.lifecycle.lock:
            source = self.files.for_batch(params["input_file_id"], self.settings.file_lag_seconds)
            wall, now = self.clock.wall(), self.clock.now()
            wire = BatchObject(
                id=new_id("batch_"),
                endpoint=params["endpoint"],
                input_file_id=source.wire.id,
                completion_window=params["completion_window"],
                created_at=int(wall),
                expires_at=int(wall + self.settings.window_seconds),
                metadata=params.get("metadata"),
            )
            record = self._record(wire, now)
            record.input = source
            record.output_expiry = params.get("output_expires_after") or DEFAULT_EXPIRY_SECONDS
            self.batches.add(record)
            self.lifecycle.begin(record)
            return self.encode(record)

    def _record(self, wire: BatchObject, now: float) -> StoredBatch:
        """A batch with the times that the settings give it."""
        settings, number = self.settings, self._created + 1
        self._created = number
        return StoredBatch(
            wire,
            now,
            settings.seconds_of(number),
            now + settings.window_seconds,
            number=number,
            validating=settings.validating_seconds,
            per_request=settings.seconds_per_request,
            born=now,
        )

    def find_batch(self, batch_id: str) -> StoredBatch:
        record = self.batches.get(batch_id)
        if record is None:
            raise no_such_batch(batch_id)
        return record

    def encode(self, record: StoredBatch) -> bytes:
        with self.lifecycle.lock:  # its status must not change while its fields are read
            return _encode(self.lifecycle.show(record))

    def cancel_batch(self, batch_id: str) -> bytes:
        with self.lifecycle.lock:
            record = self.find_batch(batch_id)
            self.lifecycle.cancel(record)
            return self.encode(record)

    def list_batches(self, after: str | None, limit: int) -> bytes:
        if not self.settings.list_enabled:
            raise ApiError(HTTPStatus.NOT_FOUND, "This server does not list batches.", code="unknown_url")
        with self.lifecycle.lock:
            cursor = self.batches.get(after) if after is not None else None
            if after is not None and cursor is None:
                raise invalid("after", f"Invalid 'after': no batch found with id '{after}'.")
            latest = self.clock.now() - self.settings.list_lag_seconds
            records, has_more = self.batches.page(cursor, limit, lambda record: record.born <= latest)
            return _encode(page([self.lifecycle.show(record) for record in records], has_more))

    def list_files(self, after: str | None, limit: int, purpose: str | None, *, newest_first: bool) -> bytes:
        with self.lifecycle.lock:
            cursor = self.files.find(after) if after is not None else None
            stored, has_more = self.files.ledger.page(
                cursor,
                limit,
                lambda item: purpose in (None, item.wire.purpose) and self.files.alive(item),
                newest_first=newest_first,
            )
            return _encode(page([item.wire for item in stored], has_more))

    # The control methods, for tests

    def patch_settings(self, changes: dict[str, Any]) -> dict[str, Any]:
        with self.lifecycle.lock:
            self.settings.patch(changes)
            self.clock.run(self.settings.clock_speed)
            self.clock.freeze(self.settings.freeze)
            self.lifecycle.wake()
            return {**msgspec.structs.asdict(self.settings), "api_keys": len(self.settings.api_keys)}

    def stats(self, metadata_key: str | None = None) -> dict[str, Any]:
        with self.lifecycle.lock:
            own = self._own()
            stats = self.tally.stats() | {
                "faults_fired": self.faults.fired,
                "live": self.live.stats(),
                "files": len(self.files.ledger),
                "batches": {
                    "stored": len(own),
                    "running": sum(record.over_at is None for record in own),
                    "by_status": dict(Counter(record.wire.status for record in own)),
                    "seeded": len(self.batches) - len(own),
                },
                "now": self.clock.wall(),
            }
            if metadata_key is not None:
                found = ((record.wire.metadata or {}).get(metadata_key) for record in own)
                stats["batches_by_metadata"] = dict(Counter(value for value in found if value is not None))
            return stats

    def _own(self) -> list[StoredBatch]:
        """The batches that were created over the API, up to date."""
        own = [record for record in self.batches if not record.seeded]
        for record in own:
            self.lifecycle.advance(record)
        return own

    def show_batches(self, metadata: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """The batches that were created over the API and have this metadata, oldest first."""
        wanted = (metadata or {}).items()
        with self.lifecycle.lock:
            return [
                msgspec.to_builtins(self.lifecycle.show(record))
                for record in self._own()
                if wanted <= (record.wire.metadata or {}).items()
            ]

    def timeline(self) -> list[dict[str, Any]]:
        """What each batch that was created over the API took, oldest first."""
        with self.lifecycle.lock:
            return [span_of(record) for record in self._own()]

    def answers(self, at_least: int = 1) -> list[dict[str, Any]]:
        """How often each request line was executed and answered."""
        with self.lifecycle.lock:
            return self.tally.answers(at_least)

    def force(
        self,
        batch_id: str,
        *,
        status: str | None = None,
        after: float | None = None,
        stuck: bool | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Return the batch. If ``status`` is terminal, wait until the batch has reached it."""
        with self.lifecycle.lock:
            record = self.find_batch(batch_id)
            record.overrides = {**(record.overrides or {}), **fields}
            self.lifecycle.force(record, status, after, stuck=stuck)
            over = record.over
        if is_over(status) and over is not None and not over.wait(FORCE_TIMEOUT):
            text = f"The batch {batch_id} did not become '{status}' in {FORCE_TIMEOUT} s."
            raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        with self.lifecycle.lock:
            shown: dict[str, Any] = msgspec.to_builtins(self.lifecycle.show(record))
            return shown

    def seed(
        self,
        count: int,
        status: str = "completed",
        metadata: dict[str, str] | list[dict[str, str]] | None = None,
        spread_seconds: float = 0.0,
    ) -> int:
        """
        Add batches without files, as if somebody else had created them over the last ``spread_seconds``.

        :param metadata: that of all of them; or a list with one for each, the newest first.
        :returns: how many batches there are now.
        """
        with self.lifecycle.lock:
            now, wall = self.clock.now(), self.clock.wall()
            step = spread_seconds / max(1, count)
            each = metadata if isinstance(metadata, list) else [metadata] * count
            records = [self._seeded(now, wall, index * step, status, each[index]) for index in range(count)]
            self.batches.merge(records, lambda record: record.born)
            return len(self.batches)

    def _seeded(
        self, now: float, wall: float, age: float, status: str, metadata: dict[str, str] | None
    ) -> StoredBatch:
        created = int(wall - age)
        wire = BatchObject(
            id=new_id("batch_"),
            endpoint=CHAT,
            input_file_id="file-seeded",
            completion_window="24h",
            created_at=created,
            expires_at=created + int(self.settings.window_seconds),
            status=status,
            metadata=metadata,
            request_counts={"total": 1, "completed": int(status == "completed"), "failed": 0},
        )
        record = StoredBatch(wire, now - age, 0.0, now, born=now - age, seeded=True, stuck=True)
        if is_over(status):
            setattr(wire, f"{status}_at", created)
            record.over_at = now - age
        return record

    def reset(self) -> None:
        """Forget all files, batches, faults and counts, and restore the initial settings."""
        with self.lifecycle.lock:
            self.lifecycle.reset()
            self.clock.restart()
            self._created = 0
            self.batches.clear()
            self.files.clear()
            self.faults.clear()
            self.tally.reset()
            self.live.reset()
            self.patch_settings(self._initial)

    def close(self) -> None:
        self.lifecycle.close()
        self.files.close()
