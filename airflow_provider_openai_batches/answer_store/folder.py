"""The directory of a store: what it holds, and reading and deleting files in it, on a disk or elsewhere."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.storage import as_path, local, whole
from airflow_provider_openai_batches.storage.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from typing import BinaryIO

    from airflow_provider_openai_batches.storage import Location

# So many parts of a file in an object store are asked for one by one, or so many more of a large one as take
# about as long as all of it. For more, the whole file is fetched.
_FEW_PARTS = 8
_BYTES_IN_A_REQUESTS_TIME = 1 << 22
_PROBE = b"written to see that it can be"
_DIRECT = os.O_RDONLY | os.O_NOFOLLOW  # a link may lead anywhere


class StoreFolder:
    """
    The files of a store.

    A file to read that is gone is a ``FileNotFoundError``. Any other trouble with the disk or the store is
    an :class:`InvalidInputError` that names ``answers_uri`` and has the trouble as its cause.
    """

    def __init__(self, uri: Location) -> None:
        if not str(uri).strip():
            raise InvalidInputError("answers_uri is empty: it must be a directory, as a path or a URI.")
        try:
            self.path = as_path(uri)
            self.directory = local(self.path)
        except Exception as error:  # an unknown scheme, or a client that is not installed
            raise InvalidInputError(f"answers_uri: {uri} is no store that can be used: {error}") from error

    def check(self, name: str) -> None:
        """Write, list, read and delete a file of this name, to see that all of it is possible."""
        with self.create(name) as file:
            file.write(_PROBE)
        try:
            if name not in self.sizes():
                raise InvalidInputError(
                    f"answers_uri: a file that was written to {self.path} is not listed there"
                )
            with self._named(f"read ({name})", also_gone=True):
                written = self.read(name)
            if written != _PROBE:
                raise InvalidInputError(f"answers_uri: a file in {self.path} is not read as it was written")
        finally:
            self.remove(name)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files by their names, as they are now."""
        with self._named("listed"):
            try:
                return dict(self._listed())
            except FileNotFoundError:
                return {}

    def _listed(self) -> Iterator[tuple[str, int]]:
        if self.directory is not None:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        try:
                            yield entry.name, entry.stat(follow_symlinks=False).st_size
                        except FileNotFoundError:  # deleted a moment ago
                            continue
            return
        fs = self.path.fs
        fs.invalidate_cache(self.path.path)  # other workers write there too
        for found in fs.ls(self.path.path, detail=True):
            if found["type"] == "file":
                yield found["name"].rpartition("/")[2], int(found["size"] or 0)

    def modified(self, name: str) -> float:
        """Return when a file was written, in Unix seconds; now, if it is not there or nobody knows."""
        with self._named(f"read ({name})"):
            try:
                if self.directory is not None:
                    return (self.directory / name).lstat().st_mtime
                moment: datetime = self.path.fs.modified(f"{self.path.path}/{name}")
                return moment.timestamp()
            except (FileNotFoundError, RuntimeError):  # the latter is fsspec's word for a store without times
                return time.time()

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file to write to, which appears whole or not at all, for the owner alone."""
        with self._named(f"written ({name})", also_gone=True), whole(self.path / name, private=True) as file:
            yield file

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        with self._named(f"changed ({name} cannot be deleted)"):
            try:
                (self.path / name).unlink()
            except FileNotFoundError:
                return

    def read(self, name: str) -> bytes:
        with self._named(f"read ({name})"):
            if self.directory is None:
                data: bytes = self.path.fs.cat_file(f"{self.path.path}/{name}")
                return data
            with os.fdopen(os.open(self.directory / name, _DIRECT), "rb") as file:
                return file.read()

    @contextmanager
    def parts(self, name: str, size: int, count: int) -> Iterator[Callable[[int, int], bytes]]:
        """
        Yield a function that reads a file from one offset to another.

        :param size: of the file; ``count`` is how many parts of it will be read.
        """
        if self.directory is None and count <= max(_FEW_PARTS, size // _BYTES_IN_A_REQUESTS_TIME):
            yield partial(self._fetch_part, name)
            return
        with ExitStack() as stack:
            directory = self.directory
            if directory is None:
                directory = stack.enter_context(Scratch()).path
                with self._named(f"read ({name})"):
                    self.path.fs.get_file(f"{self.path.path}/{name}", str(directory / name))
            with self._named(f"read ({name})"):
                handle = os.open(directory / name, _DIRECT)
            stack.callback(os.close, handle)
            yield partial(self._read_part, name, handle)

    def _fetch_part(self, name: str, start: int, end: int) -> bytes:
        with self._named(f"read ({name})"):
            data: bytes = self.path.fs.cat_file(f"{self.path.path}/{name}", start, end)
            return data

    def _read_part(self, name: str, handle: int, start: int, end: int) -> bytes:
        with self._named(f"read ({name})"):
            return os.pread(handle, end - start, start)

    @contextmanager
    def _named(self, what: str, *, also_gone: bool = False) -> Iterator[None]:
        try:
            yield
        except InvalidInputError:
            raise
        except Exception as error:  # the clients of object stores have errors of their own
            if isinstance(error, FileNotFoundError) and not also_gone:
                raise
            message = f"answers_uri: the store {self.path} cannot be {what}: {error}"
            raise InvalidInputError(message) from error


class FetchedFiles:
    """
    Reads small files of a store; a context manager.

    Those of an object store are fetched once, and stay on this machine until the end.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self._scratch = Scratch() if folder.directory is None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            self._scratch.close()

    def read(self, name: str) -> bytes:
        """
        Return what a file holds.

        :raises FileNotFoundError: if it is gone.
        """
        if self._scratch is None:
            return self._folder.read(name)
        kept = self._scratch.path / name
        if not kept.exists():
            data = self._folder.read(name)
            kept.write_bytes(data)
            return data
        return kept.read_bytes()
