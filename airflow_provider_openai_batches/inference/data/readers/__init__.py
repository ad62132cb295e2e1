"""
Streams rows from files. A new format is a module with a function ``read`` and a line in :data:`READERS`.

``read`` takes the open file, already unpacked, and its path for messages. Errors of the disk, of the store
and of gzip get the name of the file here.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.readers import csv, jsonl, parquet, text
from airflow_provider_openai_batches.storage import AnyPath, as_path, open_binary

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader: TypeAlias = Callable[[BinaryIO, AnyPath], Iterator[dict[str, Any]]]

READERS: dict[str, Reader] = {
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".csv": csv.read,
    ".parquet": parquet.read,
    ".txt": text.read,
    ".md": text.read,
}
_GZIPPED = frozenset({".jsonl", ".ndjson", ".csv"})  # formats that may be gzipped: the suffix ends in .gz


def read_rows(paths: str | AnyPath | Iterable[str | AnyPath]) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of the files, in order, without holding a file in memory.

    :param paths: a file, a directory (its files in the order of their names), a glob, or several of them.
        The suffix tells the format: ``.jsonl``, ``.ndjson``, ``.csv`` (all three also with ``.gz``),
        ``.parquet``, and ``.txt`` or ``.md`` for one row ``{"path": name, "text": content}`` a file.
    :raises InvalidInputError: if there is no such file, or a file cannot be read, naming file and line.
    """
    many = isinstance(paths, Iterable) and not isinstance(paths, str) and not hasattr(paths, "open")
    files = [file for path in (paths if many else [paths]) for file in _files(as_path(path))]
    if not files:
        raise InvalidInputError("No input file is given")
    readers = [(_reader_of(file), file) for file in files]
    return chain.from_iterable(_rows(file, read) for read, file in readers)


def _rows(file: AnyPath, read: Reader) -> Iterator[dict[str, Any]]:
    try:
        with open_binary(file) as handle:
            yield from read(_unpacked(handle, file), file)
    except InvalidInputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:  # Arrow raises ValueErrors
        raise InvalidInputError(f"{file} cannot be read: {error}") from error


def _unpacked(handle: BinaryIO, file: AnyPath) -> BinaryIO:
    return cast("BinaryIO", gzip.open(handle)) if file.name.lower().endswith(".gz") else handle


def _files(path: AnyPath) -> list[AnyPath]:
    """Return the files that a path stands for."""
    if not path.exists():
        if not _is_pattern(str(path)):
            raise InvalidInputError(f"{path} does not exist")
        found = sorted(_glob(path), key=str)
    elif path.is_dir():
        found = sorted(path.iterdir(), key=str)
    else:
        return [path]
    files = [file for file in found if not file.name.startswith((".", "_")) and _format(file) in READERS]
    if not files:
        raise InvalidInputError(f"{path} holds no file with one of the suffixes {_known()}")
    return files


def _is_pattern(path: str) -> bool:
    return any(character in path for character in "*?[")


def _glob(path: AnyPath) -> Iterator[AnyPath]:
    names: list[str] = []
    while _is_pattern(str(path)):
        names.insert(0, path.name)
        path = path.parent
    found: Iterator[AnyPath] = path.glob("/".join(names))
    return found


def _format(file: AnyPath) -> str:
    """``.csv`` for ``a.csv`` and ``a.csv.gz``; a format that may not be gzipped keeps its ``.gz``."""
    name = PurePosixPath(file.name.lower())
    if name.suffix == ".gz" and (inner := name.with_suffix("").suffix) in _GZIPPED:
        return inner
    return name.suffix


def _known() -> str:
    return ", ".join(READERS)


def _reader_of(file: AnyPath) -> Reader:
    try:
        return READERS[_format(file)]
    except KeyError:
        raise InvalidInputError(
            f"{file} has an unknown format: give it one of the suffixes {_known()}"
        ) from None
