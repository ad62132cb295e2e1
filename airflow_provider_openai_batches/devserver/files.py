"""The stored files: the list is kept in memory, the bytes in a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from airflow_provider_openai_batches.devserver.errors import invalid, no_such_file
from airflow_provider_openai_batches.devserver.objects import FileObject, new_id
from airflow_provider_openai_batches.devserver.store import PagedCollection, StoredFile

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver.clock import BatchClock


class FileStore:
    """:param folder: where the bytes go; by default a temporary folder, which :meth:`close` removes."""

    def __init__(self, folder: Path | None, clock: BatchClock) -> None:
        self.ledger: PagedCollection[StoredFile] = PagedCollection()
        self._clock = clock
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def new_path(self) -> Path:
        """The path to write a new file to. Its name becomes the file's id."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="openai-batches-devserver-")
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / new_id("file-")

    def add(
        self, path: Path, filename: str, purpose: str, *, sha256: str = "", expiry: int | None = None
    ) -> StoredFile:
        """
        Store the file that was written to ``path``, which came from :meth:`new_path`.

        :param expiry: how many seconds the file lives; None means for ever.
        """
        now = int(self._clock.wall())
        wire = FileObject(path.name, filename, path.stat().st_size, purpose, now)
        wire.expires_at = UNSET if expiry is None else now + expiry
        stored = StoredFile(wire, path, sha256, self._clock.now())
        self.ledger.add(stored)
        return stored

    def find(self, file_id: str) -> StoredFile:
        """:raises ApiError: 404."""
        stored = self.ledger.get(file_id)
        if stored is None or not self.alive(stored):
            raise no_such_file(file_id)
        return stored

    def alive(self, stored: StoredFile) -> bool:
        expires_at = stored.wire.expires_at
        return expires_at is UNSET or expires_at > self._clock.wall()

    def for_batch(self, file_id: str, lag: float) -> StoredFile:
        """
        The input file of a new batch. It is kept until :meth:`release`.

        :param lag: how many seconds after its upload a file can be used.
        :raises ApiError: 400.
        """
        stored = self.ledger.get(file_id)
        if stored is None or not self.alive(stored) or self._clock.now() < stored.born + lag:
            raise invalid("input_file_id", f"No such File object: {file_id}", "invalid_file")
        if stored.wire.purpose != "batch":
            text = f"The file {file_id} has the purpose '{stored.wire.purpose}', not 'batch'."
            raise invalid("input_file_id", text, "invalid_file_purpose")
        stored.users += 1
        return stored

    def release(self, stored: StoredFile) -> None:
        stored.users -= 1
        self._remove_bytes(stored)

    def delete(self, stored: StoredFile) -> None:
        self.ledger.remove(stored)
        stored.deleted = True
        self._remove_bytes(stored)

    def _remove_bytes(self, stored: StoredFile) -> None:
        if stored.deleted and not stored.users:
            stored.path.unlink(missing_ok=True)

    def clear(self) -> None:
        for stored in self.ledger:
            self.delete(stored)
        self.ledger.clear()

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._folder = None
