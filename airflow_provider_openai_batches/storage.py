"""Files in and out: a multipart body that streams, and destinations that never hold half a file."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_openai_batches.api import protocol
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHUNK = 1024 * 1024
Location = Any  # a path, a URI, or an ObjectStoragePath


class MultipartBody:
    """
    One file and some fields, as a body that requests sends piece by piece.

    :param source: a seekable binary file; it is read from its present position.
    """

    def __init__(self, source: IO[bytes], filename: str, fields: Mapping[str, str]) -> None:
        boundary = uuid.uuid4().hex
        head, tail = protocol.multipart(fields, filename, boundary)
        start = source.tell()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._length = len(head) + source.seek(0, os.SEEK_END) - start + len(tail)
        self._parts: list[bytes | IO[bytes]] = [head, source, tail]
        source.seek(start)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                while chunk := part.read(CHUNK):
                    yield chunk


def as_path(location: Location) -> Any:
    """A local path as ``pathlib.Path``, a URI as Airflow's ``ObjectStoragePath`` or fsspec's own."""
    if hasattr(location, "open") and hasattr(location, "parent"):
        return location
    text = os.fspath(location)
    if "://" not in text or text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    from airflow.providers.common.compat.sdk import ObjectStoragePath  # noqa: PLC0415 - costs 100 ms, seldom needed

    path = ObjectStoragePath(text)
    try:
        path.fs  # noqa: B018 - Airflow knows only the schemes of its providers, fsspec knows more
    except ValueError:
        from upath import UPath  # noqa: PLC0415 - as above

        return UPath(text)
    return path


def name_of(source: Location) -> str:
    """The last part of a path, a URI or a file object's name; a name of our own where there is none."""
    name = getattr(source, "name", source)
    return os.path.basename(name) if isinstance(name, str) and name else _of_path(name)  # noqa: PTH119 - URIs


def _of_path(name: Any) -> str:
    return Path(name).name if isinstance(name, os.PathLike) else "batch.jsonl"


@contextmanager
def opened(source: Location) -> Iterator[IO[bytes]]:
    """
    A seekable binary file for a path, a URI or a file object.

    :raises InvalidInputError: if there is no such file, or the file object is a text file.
    """
    if hasattr(source, "read") and not hasattr(source, "parent"):
        if isinstance(source.read(0), str):
            raise InvalidInputError("The file to upload is open as text; open it in binary mode ('rb').")
        if source.seekable():
            yield source
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(source, copy, CHUNK)
            copy.seek(0)
            yield copy
        return
    path = as_path(source)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidInputError(f"The input file {path} cannot be read: {error}.") from error
    with file:
        yield file


@contextmanager
def whole_file(destination: Location) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its final name only if nothing goes wrong."""
    if hasattr(destination, "write") and not hasattr(destination, "parent"):
        yield destination
        return
    path = as_path(destination)
    local = _local(path)
    folder = None
    if local:
        folder = local.parent
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".download-", suffix=".part")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        if local:
            partial.chmod(0o666 & ~_umask())
            partial.replace(local)
        else:
            path.fs.put_file(str(partial), path.path)
    finally:
        partial.unlink(missing_ok=True)


def _local(path: Any) -> Path | None:
    if not hasattr(path, "fs"):  # until universal_pathlib 0.3 a UPath is a Path too
        return Path(path)
    return Path(path.path) if getattr(path, "protocol", "") in {"file", "local"} else None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
