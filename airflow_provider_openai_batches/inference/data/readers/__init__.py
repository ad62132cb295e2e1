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
from airflow_provider_openai_batches.storage import AnyPath, as_path, local, open_sized

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
_Sized: TypeAlias = tuple[AnyPath, int | None]
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
    readers = [(_reader_of(path), path, size) for path, size in files]
    return chain.from_iterable(_rows(path, size, read) for read, path, size in readers)


def _rows(file: AnyPath, size: int | None, read: Reader) -> Iterator[dict[str, Any]]:
    try:
        with open_sized(file, size) as handle:
            yield from read(_unpacked(handle, file), file)
    except InvalidInputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:  # Arrow raises ValueErrors
        raise InvalidInputError(f"{file} cannot be read: {error}") from error


def _unpacked(handle: BinaryIO, file: AnyPath) -> BinaryIO:
    return cast("BinaryIO", gzip.open(handle)) if file.name.lower().endswith(".gz") else handle


def _files(path: AnyPath) -> list[_Sized]:
    """Return the files that a path stands for, with their sizes where the store has told them."""
    found = _on_disk(path) if local(path) is not None else _in_store(path)
    if isinstance(found, tuple):
        return [found]
    files = [
        each for each in found if not each[0].name.startswith((".", "_")) and _format(each[0]) in READERS
    ]
    if not files:
        raise InvalidInputError(f"{path} holds no file with one of the suffixes {_known()}")
    return sorted(files, key=lambda each: str(each[0]))


def _on_disk(path: AnyPath) -> list[_Sized] | _Sized:
    """Return what is in a directory, or fits a pattern; or the file."""
    if path.exists():
        return [(file, None) for file in path.iterdir()] if path.is_dir() else (path, None)
    if not _is_pattern(str(path)):
        raise InvalidInputError(f"{path} does not exist")
    above, names = _pattern_of(path)
    return [(file, None) for file in above.glob(names)]


def _in_store(path: AnyPath) -> list[_Sized] | _Sized:
    """Do the same with one listing; a path that looks like that of a file is asked about first."""
    fs, place = path.fs, path.path
    fs.invalidate_cache(place)  # a client keeps listings, and other tasks write there
    if _is_pattern(place) and not ("[" in place and fs.exists(place)):
        above, _ = _pattern_of(path)
        return _sized(above, fs.glob(place, detail=True).values())
    try:
        if _format(path) in READERS and (info := fs.info(place))["type"] != "directory":
            return path, info["size"]
        found = fs.ls(place, detail=True)
    except FileNotFoundError:
        raise InvalidInputError(f"{path} does not exist") from None
    if [each["name"].strip("/") for each in found] == [place.strip("/")] and found[0]["size"]:
        return path, found[0]["size"]
    return _sized(path, found)


def _sized(above: AnyPath, found: Iterable[dict[str, Any]]) -> list[_Sized]:
    start = len(above.path.strip("/"))
    return [
        (above / each["name"].strip("/")[start:].lstrip("/"), each["size"])
        for each in found
        if each["type"] != "directory" and each["name"].strip("/") != above.path.strip("/")
    ]


def _is_pattern(path: str) -> bool:
    return any(character in path for character in "*?[")


def _pattern_of(path: AnyPath) -> tuple[AnyPath, str]:
    """Return the directory above all parts of a path that are patterns, and these parts."""
    names: list[str] = []
    while _is_pattern(str(path)):
        names.insert(0, path.name)
        path = path.parent
    return path, "/".join(names)


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
