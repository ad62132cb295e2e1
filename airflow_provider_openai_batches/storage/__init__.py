"""Paths of every kind, files that appear whole or not at all, and temporary directories that do not stay."""

from __future__ import annotations

import inspect
import io
import os
import re
import shutil
import tempfile
import uuid
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, cast

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.storage.scratch import Scratch
from airflow_provider_openai_batches.storage.uploads import put_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")
# pathlib's Path, universal_pathlib's UPath and Airflow's ObjectStoragePath share methods but no base class.
AnyPath: TypeAlias = Any
Location: TypeAlias = Any  # what a user may give: a path, a URI, or for a single file an open binary file

COPY_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 16
_NAME_BYTES = 100  # of a file's name in that of its temporary file; a name may have 255
_BARE_NAME = re.compile(r"[^/\\\x00-\x1f]+")
_OWNER_ALONE = 0o600
_OWNER_ALONE_IN = 0o700
_SMALL_BYTES = 8 << 20  # a file of a store that is read into memory
_DEFAULT_CONNECTIONS = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "aws_default"),
    **dict.fromkeys(("gs", "gcs"), "google_cloud_default"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "wasb_default"),
}
_OBJECT_STORES = frozenset({*_DEFAULT_CONNECTIONS, "az"})


def as_path(location: Location) -> AnyPath:
    """
    Return a local path as ``pathlib.Path``, a URI as Airflow's ``ObjectStoragePath`` or fsspec's own.

    A URI that names no connection gets Airflow's default one of its store, see :func:`default_connection`.
    """
    if hasattr(location, "open") and hasattr(location, "parent"):
        return location
    text = os.fspath(location)
    if "://" not in text or text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    from airflow.providers.common.compat.sdk import ObjectStoragePath  # noqa: PLC0415 - takes 100 ms, rarely needed

    path = ObjectStoragePath(_with_connection(text))
    try:
        path.fs  # noqa: B018 - Airflow knows the schemes of its providers only, fsspec knows more
    except ValueError:
        from upath import UPath  # noqa: PLC0415 - rarely needed

        return UPath(text)
    return path


def _with_connection(uri: str) -> str:
    scheme, _, place = uri.partition("://")
    is_named = "@" in place.partition("/")[0]
    conn_id = None if is_named else default_connection(scheme)
    return uri if conn_id is None else f"{scheme}://{conn_id}@{place}"


@cache
def default_connection(scheme: str) -> str | None:
    """
    Return the id of Airflow's default connection of a kind of store, if there is one that says anything.

    Airflow can fill a new database with default connections, which say nothing: then the store's client looks
    for credentials itself. A process asks once.
    """
    conn_id = _DEFAULT_CONNECTIONS.get(scheme)
    if conn_id is None:
        return None
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook  # noqa: PLC0415 - as above

    try:
        found = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None
    said = [found.host, found.login, found.password, *found.extra_dejson.values()]
    return conn_id if any(value not in (None, "") for value in said) else None


def local(path: AnyPath) -> Path | None:
    """Return the plain path of a file on this machine, None for one in an object store."""
    if not hasattr(path, "fs"):  # before universal_pathlib 0.3 a UPath is a pathlib.Path too
        return Path(path)
    return Path(path.path) if path.protocol in {"", "file", "local"} else None


def as_given(location: Location, path: AnyPath) -> str:
    """Return a location as it was given, for others to use: without a connection that it did not name."""
    return str(location) if local(path) is None else str(path)


def uri_of(location: Location) -> str:
    """Return a path as a URI; a URI is returned unchanged."""
    text = str(location)
    return text if "://" in text else Path(text).absolute().as_uri()


def name_of(source: Location) -> str:
    """Return the last part of a path, a URI or a file object's name; ``batch.jsonl`` where there is none."""
    name = getattr(source, "name", source)
    if isinstance(name, str) and name:
        return os.path.basename(name)  # noqa: PTH119 - URIs too
    return Path(name).name if isinstance(name, os.PathLike) else "batch.jsonl"


def is_bare_name(name: str) -> bool:
    """Whether this names a file in a directory, and leads nowhere else."""
    return bool(_BARE_NAME.fullmatch(name)) and name not in {".", ".."}


def is_object_store(path: AnyPath) -> bool:
    """Whether a path is in a store that has no directories, only objects with slashes in their names."""
    return hasattr(path, "fs") and path.protocol in _OBJECT_STORES


def make_directory(directory: AnyPath, mode: int = 0o777) -> None:
    """Make a directory, and those above it, where there is such a thing; no bucket or container is made."""
    if local(directory) is not None:
        directory.mkdir(parents=True, exist_ok=True, mode=mode)
    elif not is_object_store(directory):
        directory.fs.makedirs(directory.path, exist_ok=True)


def names_in(directory: AnyPath) -> list[str]:
    """Return the names of what is in a directory now, by one listing; none if there is no such directory."""
    try:
        if (plain := local(directory)) is not None:
            return os.listdir(plain)  # noqa: PTH208 - the names are wanted
        directory.fs.invalidate_cache(
            directory.path
        )  # a client keeps listings; other workers write there too
        found = directory.fs.ls(directory.path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    own = directory.path.strip("/")  # some stores list an empty object of the directory's own name
    return [name.rstrip("/").rpartition("/")[2] for name in found if name.strip("/") != own]


def open_binary(path: AnyPath, mode: str = "rb") -> BinaryIO:
    """
    Open a file without the bookkeeping that ``ObjectStoragePath`` adds to each read.

    The files of stores get a buffer: for each line, a client's own ``readline`` copies megabytes.
    """
    if (plain := local(path)) is not None:
        return cast("BinaryIO", plain.open(mode, buffering=_BUFFER_BYTES))
    file = path.fs.open(path.path, mode)
    is_bufferable = mode == "rb" and getattr(file, "readinto", None)
    return cast("BinaryIO", io.BufferedReader(file, _BUFFER_BYTES) if is_bufferable else file)


def open_sized(path: AnyPath, size: int | None) -> BinaryIO:
    """
    Open a file to read all of it; a small one of a store by one request.

    :param size: in bytes, where it is known.
    """
    if size is None or size > _SMALL_BYTES or local(path) is not None:
        return open_binary(path)
    return io.BytesIO(fetched(path))


@contextmanager
def opened(source: Location) -> Iterator[IO[bytes]]:
    """
    Yield a seekable binary file for a path, a URI or a file object.

    :raises InvalidInputError: if there is no such file, or the file object is a text file.
    """
    if not hasattr(source, "read") or hasattr(source, "parent"):
        with _opened_path(as_path(source)) as file:
            yield file
        return
    if isinstance(source.read(0), str):
        raise InvalidInputError("The file to upload is open as text; open it in binary mode ('rb').")
    if source.seekable():
        yield source
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy, COPY_BYTES)
        copy.seek(0)
        yield copy


def make_private(directory: Path) -> None:
    """Create a local directory, and missing ones above it, for the owner alone, whatever the umask."""
    if directory.is_dir():
        return
    make_private(directory.parent)
    try:
        directory.mkdir(_OWNER_ALONE_IN)
    except FileExistsError:  # another process made it a moment ago, or it is a file
        if not directory.is_dir():
            raise
    else:
        directory.chmod(_OWNER_ALONE_IN)


def _opened_path(path: AnyPath) -> IO[bytes]:
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise InvalidInputError(f"The input file {path} cannot be read: {error}.") from error
    return file


@contextmanager
def whole(destination: Location, *, private: bool = False) -> Iterator[BinaryIO]:
    """
    Yield a file to write to; it appears at its destination only if the block ends without an error.

    Missing local directories are created. An open file object is yielded unchanged.

    :param private: on a disk, only the owner may read the file and what is in directories that are created.
    """
    if hasattr(destination, "write") and not hasattr(destination, "parent"):
        yield destination
        return
    path = as_path(destination)
    plain = local(path)
    if plain is None:
        with Scratch() as scratch:
            temporary = scratch.path / path.name
            with temporary.open("wb", buffering=_BUFFER_BYTES) as file:
                yield file
            put_file(path.fs, str(temporary), path.path)  # stores show an object when its upload is complete
        return
    make_private(plain.parent) if private else plain.parent.mkdir(parents=True, exist_ok=True)
    name = plain.name.encode()[:_NAME_BYTES].decode(errors="ignore")
    temporary = plain.with_name(f".{name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb", buffering=_BUFFER_BYTES) as file:  # "x" does not follow a link at this path
            if private:
                os.fchmod(file.fileno(), _OWNER_ALONE)
            yield file
        temporary.replace(plain)
    finally:
        temporary.unlink(missing_ok=True)


def read_bytes(path: AnyPath) -> bytes | None:
    """Return what is in a file, by one request to a store; None if there is no such file."""
    plain = local(path)
    try:
        return fetched(path) if plain is None else plain.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def fetched(path: AnyPath) -> bytes:
    """Return what is in a small file of a store, by one request."""
    fs = path.fs
    # A client that can read pieces at the same time asks for the size first, unless there is to be one piece.
    parameters = inspect.signature(getattr(type(fs), "_cat_file", fs.cat_file)).parameters
    options = {"max_concurrency": 1} if "max_concurrency" in parameters else {}
    content: bytes = fs.cat_file(path.path, **options)
    return content


def read_json(path: AnyPath, kind: type[T], trouble: str) -> T | None:
    """
    Read one JSON document; None if there is no such file.

    :param trouble: what the error says after the path, with ``{}`` for what is wrong with the file.
    :raises InvalidInputError: if it is not a valid ``kind``.
    """
    content = read_bytes(path)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path} {trouble.format(error)}") from error


def write_json(path: AnyPath, value: Any) -> None:
    """Write one JSON document, indented for people to read; it appears whole or not at all."""
    with whole(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def remove(path: AnyPath) -> None:
    """Delete a file if it exists, by one request to a store."""
    try:
        if (plain := local(path)) is not None:
            plain.unlink()
        else:
            path.fs.rm_file(path.path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def remove_all(directory: AnyPath, names: Iterable[str] | None = None) -> None:
    """
    Delete a directory if it exists.

    :param names: what is in there, if that is known: then a store that has no directories lists nothing.
    """
    if (plain := local(directory)) is not None:
        if plain.exists():
            shutil.rmtree(plain)
        return
    fs, path = directory.fs, directory.path
    if not is_object_store(directory):
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    if names is None:
        fs.invalidate_cache(path)
        found = fs.find(path)
    else:
        found = [f"{path}/{name}" for name in names]
    if found:
        with suppress(FileNotFoundError):
            fs.rm(found)
