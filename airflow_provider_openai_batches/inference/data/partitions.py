"""
Which rows a part has: the next ones, or those with one value of a kept column.

Parts by value are in directories that are named as Hive names them, ``country=DE/part-00000.parquet``. The
files do not have the column, which readers take from there. Within a value the rows are in the order of the
input. Nothing but the rows' places is in memory, 12 bytes each.
"""

from __future__ import annotations

import os
import re
from array import array
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import ROWS_FILE
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE
from airflow_provider_openai_batches.inference.data.requests import name_row
from airflow_provider_openai_batches.inference.data.value_types import common_type, text_of, type_of
from airflow_provider_openai_batches.storage import local, names_in, open_binary, remove

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from airflow_provider_openai_batches.storage import AnyPath

MAX_PARTITIONS = 1_000  # of a job; each takes a request or more to write, and again to read
NULL = "__HIVE_DEFAULT_PARTITION__"
_MOST_BYTES = 255  # of a name on a disk
# What Hive and Spark escape; nothing else can lead out of a directory, or end its name.
_SPECIAL = re.compile(r"""[\x00-\x1f"#%'*/:=?\\\x7f{\[\]^]""")
_OWN_PARTS = re.compile(r"part-\d{5,}\.(jsonl|parquet)|\.part-\d{5,}\.(jsonl|parquet)\.[0-9a-f]{32}\.part")
_JOBS = "_job"


class PartRows(NamedTuple):
    """
    The rows of one part.

    :param number: of the part in its directory.
    :param lines: of ``rows.jsonl``.
    :param numbers: which rows they are.
    :param folder: the name of the directory; empty: that of all results.
    :param partition: the column and its value.
    """

    number: int
    lines: Iterator[bytes]
    numbers: Sequence[int]
    folder: str = ""
    partition: dict[str, Any] | None = None

    def names(self, suffix: str) -> list[str]:
        """Return the names of the directory, if there is one, and of the file."""
        return [*[self.folder] * bool(self.folder), f"part-{self.number:05d}{suffix}"]


def parts_in_order(work: AnyPath, rows: int, rows_per_part: int) -> Generator[PartRows]:
    """Yield the parts of a job whose rows are in the order of the input."""
    with open_binary(work / ROWS_FILE) as lines:
        for number, first in enumerate(range(0, rows, rows_per_part)):
            numbers = range(first, min(first + rows_per_part, rows))
            yield PartRows(number, islice(lines, len(numbers)), numbers)


class Partitions:
    """
    The rows of a job by the values of a kept column.

    :param work: the directory of the job, on a disk.
    :raises InvalidInputError: if there are too many values, or one that cannot be a directory.
    """

    def __init__(self, work: Path, column: str) -> None:
        self._work, self._column = work, column
        self._offsets = array("Q", [0])
        self._rows: dict[str, array[int]] = {}  # by the name of the directory
        self._values: dict[str, Any] = {}
        kinds = {type_of(value) for value in self._read() if value is not None}
        self._kind = common_type(kinds)

    @property
    def folders(self) -> list[str]:
        return list(self._rows)

    def _read(self) -> Iterator[Any]:
        fields: list[Any] = [("value", Any, msgspec.field(name=self._column)), ("custom_id", str)]
        decode = msgspec.json.Decoder(msgspec.defstruct("_Row", fields)).decode
        with open_binary(self._work / ROWS_FILE) as lines:
            for number, line in enumerate(lines):
                row: Any = decode(line)
                self._offsets.append(self._offsets[-1] + len(line))
                try:
                    folder = folder_of(self._column, row.value)
                    self._add(folder, number, row.value)
                except InvalidInputError as error:
                    raise InvalidInputError(
                        f"{name_row(number, row.custom_id)}: partition_by={self._column!r}: {error}. Nothing "
                        "was sent"
                    ) from error
                yield row.value

    def _add(self, folder: str, number: int, value: Any) -> None:
        rows = self._rows.get(folder)
        if rows is None:
            if len(self._rows) == MAX_PARTITIONS:
                raise InvalidInputError(
                    f"its value {value!r:.80} is one more than the {MAX_PARTITIONS:,} that a job may have. "
                    "Use a column with fewer values"
                )
            rows = self._rows[folder] = array("I")
            self._values[folder] = value
        rows.append(number)

    def parts(self, rows_per_part: int) -> Generator[PartRows]:
        """Yield the parts, one value after the other."""
        with (self._work / ROWS_FILE).open("rb") as file:
            for folder, rows in self._rows.items():
                partition = {self._column: self._value(folder)}
                for number, first in enumerate(range(0, len(rows), rows_per_part)):
                    numbers = rows[first : first + rows_per_part]
                    lines = map(self._without, self._lines(file.fileno(), numbers))
                    yield PartRows(number, lines, numbers, folder, partition)

    def _value(self, folder: str) -> Any:
        """Return the value as a column of all of them has it."""
        value = self._values[folder]
        if value is None or folder.endswith(f"={NULL}"):
            return None
        if self._kind == "number":
            return float(value)
        return text_of(value) if self._kind == "text" else value

    def _lines(self, descriptor: int, numbers: Sequence[int]) -> Iterator[bytes]:
        for number in numbers:
            begin, end = self._offsets[number], self._offsets[number + 1]
            yield os.pread(descriptor, end - begin, begin)

    def _without(self, line: bytes) -> bytes:
        fields = _decode_fields(line)
        del fields[self._column]
        return msgspec.json.encode(fields) + b"\n"


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def folder_of(column: str, value: Any) -> str:
    """
    Return the name of the directory for a value; null and an empty text share one, as in Hive.

    :raises InvalidInputError: if the value can have none.
    """
    if isinstance(value, list | dict):
        raise InvalidInputError("its value is a list or an object, which cannot name a directory")
    text = text_of(value)
    if text == NULL:
        raise InvalidInputError(f"its value is {NULL}, the name of the directory for null")
    name = f"{_escaped(column)}={_escaped(text) if text else NULL}"
    if (size := len(name.encode())) > _MOST_BYTES:
        raise InvalidInputError(
            f"its value {text!r:.80} makes a directory's name of {size} bytes, and {_MOST_BYTES} are possible"
        )
    return name


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", text)


def remove_left(directory: AnyPath, before: list[str], kept: set[str]) -> None:
    """
    Remove the parts by value that an earlier job wrote, or a killed process of this one.

    :param before: what was in the directory; a directory with a manifest, or a job at work, is another's.
    :param kept: the files of this job.
    """
    for folder in before:
        names = names_in(directory / folder) if "=" in folder else []
        if MANIFEST_FILE in names or _JOBS in names:
            continue
        left = [name for name in names if f"{folder}/{name}" not in kept and _OWN_PARTS.fullmatch(name)]
        for name in left:
            remove(directory / folder / name)
        if left and (plain := local(directory / folder)):
            with suppress(OSError):  # it has other files
                plain.rmdir()
