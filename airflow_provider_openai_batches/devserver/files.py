"""The stored files: their list in memory, their bytes in a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from airflow_provider_openai_batches.devserver.errors import ApiError, no_such_file
from airflow_provider_openai_batches.devserver.store import FileObject, Ledger, StoredFile, new_id

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver.settings import LifeClock


class FileStore:
    """:param folder: where the bytes go; without one, a temporary folder that :meth:`close` removes."""

    def __init__(self, folder: Path | None, clock: LifeClock) -> None:
        self.ledger: Ledger[StoredFile] = Ledger()
        self._clock = clock
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def new_path(self) -> tuple[str, Path]:
        """An id for a file to be, and the path to write it to."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="openai-batches-devserver-")
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        file_id = new_id("file-")
        return file_id, self._folder / file_id

    def add(
        self, path: Path, filename: str, purpose: str, *, sha256: str = "", expiry: int | None = None
    ) -> StoredFile:
        """Take in the file at ``path``, as :meth:`new_path` gave it; ``expiry`` in seconds."""
        now = int(self._clock.wall())
        wire = FileObject(path.name, filename, path.stat().st_size, purpose, now)
        wire.expires_at = UNSET if expiry is None else now + expiry
        stored = StoredFile(wire, path, sha256, self._clock.now())
        self.ledger.add(stored)
        return stored

    def find(self, file_id: str) -> StoredFile:
        stored = self.ledger.get(file_id)
        if stored is None or not self.alive(stored):
            raise no_such_file(file_id)
        return stored

    def alive(self, stored: StoredFile) -> bool:
        expires_at = stored.wire.expires_at
        return expires_at is UNSET or expires_at > self._clock.wall()

    def for_batch(self, file_id: str, lag: float) -> StoredFile:
        """
        The input file of a new batch, held until :meth:`release`.

        :param lag: the seconds that a file needs after its upload.
        """
        stored = self.ledger.get(file_id)
        if stored is None or not self.alive(stored) or self._clock.now() < stored.born + lag:
            raise ApiError(400, f"No such File object: {file_id}", param="input_file_id", code="invalid_file")
        if stored.wire.purpose != "batch":
            text = f"The file {file_id} has the purpose '{stored.wire.purpose}', not 'batch'."
            raise ApiError(400, text, param="input_file_id", code="invalid_file_purpose")
        stored.users += 1
        return stored

    def release(self, stored: StoredFile) -> None:
        stored.users -= 1
        self._sweep(stored)

    def delete(self, stored: StoredFile) -> None:
        self.ledger.remove(stored)
        stored.deleted = True
        self._sweep(stored)

    def _sweep(self, stored: StoredFile) -> None:
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
