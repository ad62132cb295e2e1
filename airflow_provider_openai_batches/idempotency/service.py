"""The operations of the service that idempotency needs; the hook provides them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch, File


class Service(Protocol):
    """
    Batches and files at the service.

    ``recovery_seconds`` is how long a batch is looked for after a lost answer, ``sleep`` waits for a number
    of seconds, and after ``stop()`` nothing is created or uploaded any more.
    """

    @property
    def config(self) -> ClientConfig: ...
    @property
    def recovery_seconds(self) -> float: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def sleep(self) -> Callable[[float], None]: ...

    def stop(self) -> None: ...
    def sibling(self) -> Service:
        """Return a separate service for a kill, which may have interrupted a call of this one."""

    def create_batch(
        self,
        input_file_id: str,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | Mapping[str, Any] | None = None,
        *,
        older: Collection[str] = (),
        is_own_file: bool = False,
    ) -> Batch: ...
    def retrieve_batch(self, batch_id: str) -> Batch: ...
    def cancel_batch(self, batch_id: str) -> Batch: ...
    def settled(self, batch: Batch) -> Batch:
        """Return the batch once its file ids have caught up with its status."""

    def iter_batches_since(self, since: float) -> Iterator[Batch]: ...
    def iter_files_since(self, since: float) -> Iterator[File]: ...
    def upload_file(
        self,
        source: Any,
        filename: str | None = None,
        expires_after: int | Mapping[str, Any] | None = None,
    ) -> File: ...
    def download_file(self, file_id: str, destination: Any) -> int: ...
    def delete_file(self, file_id: str) -> None: ...
    def note_inputs(self, *locations: Any) -> None: ...
    def note_outputs(self, *locations: Any) -> None: ...
