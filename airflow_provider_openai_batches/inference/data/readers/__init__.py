"""Rows out of files, streamed: JSONL, CSV (both also gzipped), Parquet, and text files (one row each)."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.models import MAX_FILE_BYTES
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.arrow import pyarrow
from airflow_provider_openai_batches.storage import AnyPath, as_path, open_binary

if TYPE_CHECKING:
    from collections.abc import Callable

Row: TypeAlias = dict[str, Any]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET_BATCH = 1_000


def read_rows(paths: str | AnyPath | Iterable[str | AnyPath]) -> Iterator[Row]:
    """
    Yield the rows of the files, in order, without holding a file in memory.

    :param paths: a file, a directory (its files in the order of their names), a glob, or several of them.
        The suffix tells the format: ``.jsonl``, ``.ndjson``, ``.csv`` (all three also with ``.gz``),
        ``.parquet``, and ``.txt`` or ``.md`` for one row ``{"path": name, "text": content}`` a file.
    :raises InvalidInputError: if there is no such file, or a file cannot be read; it names file and line.
    """
    many = isinstance(paths, Iterable) and not isinstance(paths, str) and not hasattr(paths, "open")
    files = [file for path in (paths if many else [paths]) for file in _files(as_path(path))]
    if not files:
        raise InvalidInputError("No input file is named")
    readers = [(_reader(file), file) for file in files]
    return chain.from_iterable(read(file) for read, file in readers)


def _files(path: AnyPath) -> list[AnyPath]:
    """The files that a path stands for."""
    if not path.exists():
        if not _is_pattern(str(path)):
            raise InvalidInputError(f"{path} does not exist")
        found = sorted(_glob(path), key=str)
    elif path.is_dir():
        found = sorted(path.iterdir(), key=str)
    else:
        return [path]
    files = [file for file in found if not file.name.startswith((".", "_")) and _format(file) in _READERS]
    if not files:
        raise InvalidInputError(f"{path} holds no file with one of the suffixes {_known()}")
    return files


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _glob(path: AnyPath) -> Iterator[AnyPath]:
    names: list[str] = []
    while _is_pattern(str(path)):
        names.insert(0, path.name)
        path = path.parent
    found: Iterator[AnyPath] = path.glob("/".join(names))
    return found


def _format(file: AnyPath) -> str:
    """``.csv`` for ``a.csv`` and ``a.csv.gz``; what cannot be gzipped keeps its ``.gz``."""
    name = PurePosixPath(file.name.lower())
    return name.with_suffix("").suffix if name.suffix == ".gz" and _may_be_gzipped(name) else name.suffix


def _may_be_gzipped(name: PurePosixPath) -> bool:
    return name.with_suffix("").suffix in {".jsonl", ".ndjson", ".csv"}


def _known() -> str:
    return ", ".join(_READERS)


def _reader(file: AnyPath) -> Callable[[AnyPath], Iterator[Row]]:
    try:
        return _READERS[_format(file)]
    except KeyError:
        raise InvalidInputError(
            f"{file} has an unknown format: give it one of the suffixes {_known()}"
        ) from None


@contextmanager
def _reading(file: AnyPath) -> Iterator[None]:
    """Name the file in whatever the disk, the store, gzip or Arrow raise."""
    try:
        yield
    except InvalidInputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}") from error


def _lines(file: AnyPath) -> Iterator[bytes]:
    with _reading(file), open_binary(file) as raw:
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if file.name.lower().endswith(".gz") else raw
        for number, line in enumerate(lines):
            yield line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line


def _read_json_lines(file: AnyPath) -> Iterator[Row]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(_lines(file), start=1):
        if line.isspace():
            continue
        try:
            row = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"{file}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInputError(f"{file}, line {number}: a row is a JSON object, this is {_named(row)}")
        yield row


def _named(value: object) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(value), f"{value!r:.50}")


def _text_lines(file: AnyPath) -> Iterator[str]:
    for number, line in enumerate(_lines(file), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file}, line {number}: no UTF-8: {error}") from error


def _read_csv(file: AnyPath) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FILE_BYTES))  # the default, 128 kB, is one document
    reader = csv.reader(_text_lines(file), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InvalidInputError(f"{file}, line 1: two columns have the same name: {', '.join(header)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InvalidInputError(
                    f"{file}, line {reader.line_num}: {len(cells)} fields, the header has {len(header)}"
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InvalidInputError(f"{file}, line {reader.line_num}: {error}") from error


def _read_parquet(file: AnyPath) -> Iterator[Row]:
    parquet = pyarrow("pyarrow.parquet")
    with _reading(file), open_binary(file) as handle:
        for batch in parquet.ParquetFile(handle, buffer_size=1 << 20).iter_batches(_PARQUET_BATCH):
            yield from batch.to_pylist()


def _read_text(file: AnyPath) -> Iterator[Row]:
    with _reading(file), open_binary(file) as handle:
        content = handle.read().removeprefix(_BYTE_ORDER_MARK)
    try:
        yield {"path": file.name, "text": content.decode()}
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"{file}, line {number}: no UTF-8: {error}") from error


_READERS: dict[str, Callable[[AnyPath], Iterator[Row]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".md": _read_text,
}
