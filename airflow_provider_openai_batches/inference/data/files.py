"""Paths of every kind (plain, fsspec's, Airflow's), and files that appear whole or not at all."""

from __future__ import annotations

import importlib
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, cast

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

# pathlib's Path, universal_pathlib's UPath and Airflow's ObjectStoragePath share methods but no base class.
AnyPath: TypeAlias = Any
T = TypeVar("T")

_BUFFER = 1 << 16


def as_path(path: str | AnyPath) -> AnyPath:
    """Turn a string into a path, a URI (``s3://…``) into one of fsspec; leave paths as they are."""
    if not isinstance(path, str):
        return path
    if "://" not in path:
        return Path(path)
    return importlib.import_module("upath").UPath(path)  # a job on local paths does not pay for the import


def local(path: AnyPath) -> Path | None:
    """Return the plain path of a file on this machine, None for a store."""
    if isinstance(path, Path) and not hasattr(path, "fs"):  # until 0.3 a UPath is a Path too
        return path
    return Path(path.path) if path.protocol in {"", "file", "local"} else None


def open_binary(path: AnyPath, mode: str = "rb") -> BinaryIO:
    """Open for reading or writing, without the bookkeeping of each read that ObjectStoragePath adds."""
    plain = local(path)
    opened = path.fs.open(path.path, mode) if plain is None else plain.open(mode, buffering=_BUFFER)
    return cast("BinaryIO", opened)


@contextmanager
def whole(path: AnyPath) -> Iterator[BinaryIO]:
    """Yield a file to write; it appears at ``path`` when the block ends well, and not at all otherwise."""
    plain = local(path)
    if plain is None:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            with temporary.open("wb", buffering=_BUFFER) as handle:
                yield handle
            path.fs.put_file(str(temporary), path.path)  # stores show an object when its upload is complete
        return
    temporary = plain.with_name(f".{plain.name}.tmp")
    try:
        with temporary.open("wb", buffering=_BUFFER) as handle:
            yield handle
        temporary.replace(plain)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: AnyPath, kind: type[T], trouble: str) -> T | None:
    """
    Read one JSON document, None if there is no such file.

    :param trouble: what the error says behind the path, with ``{}`` for what is wrong with the file.
    :raises InvalidInputError: if it is no ``kind``.
    """
    if not path.exists():
        return None
    try:
        with open_binary(path) as handle:
            return msgspec.json.decode(handle.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} {trouble.format(error)}") from error


def remove(path: AnyPath) -> None:
    """Delete a file if it is there."""
    if path.exists():
        path.unlink()


def pyarrow(module: str) -> Any:
    """
    Import a module of pyarrow, which only jobs with Parquet need.

    :raises InvalidInputError: if pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInputError(
            "Parquet needs pyarrow: install airflow-provider-openai-batches[parquet]"
        ) from error
