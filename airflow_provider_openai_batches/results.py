"""The results of a finished inference job, for Python code: ``read_results(uri)``."""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.arrow import json_reader, pyarrow, rows_of
from airflow_provider_openai_batches.inference.data.arrow_tables import table_of
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, Manifest
from airflow_provider_openai_batches.inference.data.outcomes import STATUSES
from airflow_provider_openai_batches.inference.data.value_types import common_type, type_of
from airflow_provider_openai_batches.storage import as_path, is_bare_name, local, open_binary, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from airflow_provider_openai_batches.api.usage import Usage
    from airflow_provider_openai_batches.inference.data.manifest import Part
    from airflow_provider_openai_batches.pricing.cost import Cost
    from airflow_provider_openai_batches.storage import AnyPath, Location

_BATCH_ROWS = 2_000


def read_results(uri: Location | Mapping[str, Any]) -> ResultRows:
    """
    Open the results of a finished job. Its rows are read when they are iterated over, a few at a time.

    :param uri: the ``output_uri`` of an inference task, as a path or any URI of Airflow's object storage; or
        what the task returned, which names it.
    :raises InvalidInputError: if the job is not complete: there is no manifest, or a part of it is missing or
        was changed.
    """
    if isinstance(uri, dict):
        if not uri.get("output_uri") or uri.get("dry_run"):
            raise InvalidInputError(
                "This is not what an inference task returns: it names no finished results"
            )
        uri = uri["output_uri"]
    directory = as_path(uri)
    path = directory / MANIFEST_FILE
    manifest = read_json(path, Manifest, "is not the manifest of a job: {}")
    if manifest is None:
        raise InvalidInputError(
            f"The results in {directory} are not complete: there is no {MANIFEST_FILE}. The task that writes "
            "them has not finished, or has failed; its next try goes on where the last one ended."
        )
    _check_parts(directory, manifest)
    return ResultRows(directory, manifest)


def all_results(given: Any) -> list[ResultRows]:
    """
    Open the results of one inference task or of several, such as mapped ones.

    :param given: as for :func:`read_results`, or an iterable of such.
    :raises InvalidInputError: if there are none, or a job is not complete.
    """
    if not given:
        raise InvalidInputError("results is empty: it needs the output of an inference task")
    is_one = isinstance(given, str | dict) or hasattr(given, "parent")
    return [read_results(job) for job in ([given] if is_one else given)]


def wanted_statuses(statuses: Iterable[str]) -> frozenset[str]:
    """
    Return which rows are wanted, by their status.

    :raises InvalidInputError: if there is no such status, or none is wanted.
    """
    wanted = frozenset([statuses] if isinstance(statuses, str) else statuses)
    if not wanted or (unknown := sorted(wanted - set(STATUSES))):
        said = f"names {', '.join(map(repr, unknown))}" if wanted else "is empty"
        raise InvalidInputError(f"statuses {said}: each must be one of {', '.join(map(repr, STATUSES))}")
    return wanted


class ResultRows:
    """
    The rows of a finished job, as dicts, in the order of its input; with ``partition_by`` value by value.

    A row has ``custom_id``, the kept columns, ``status``, ``output``, ``usage``, ``error`` and
    ``finish_reason``. In Parquet, output that is not text or a vector is JSON in text, unless the job has
    ``typed_output``: then it is a value, and ``output_text`` has what its type does not hold.

    :ivar uri: the directory.
    :ivar manifest: all that the job says of itself.
    """

    def __init__(self, directory: AnyPath, manifest: Manifest) -> None:
        self._directory = directory
        self.uri = str(directory)
        self.manifest = manifest

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows by status."""
        return self.manifest.counts

    @property
    def usage(self) -> Usage:
        """The tokens of all answers that were paid for."""
        return self.manifest.usage

    @property
    def cost(self) -> Cost | None:
        """What the job cost, in US dollars; None if its manifest does not say."""
        return self.manifest.cost

    @property
    def is_parquet(self) -> bool:
        return self.manifest.output_format == "parquet"

    def __len__(self) -> int:
        return self.manifest.rows

    def __bool__(self) -> bool:
        return True  # results without rows are results too

    def __repr__(self) -> str:
        return f"<results of {len(self):,} rows in {self.uri}>"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """
        Read all rows, with a few of them in memory.

        :raises InvalidInputError: if a part has another number of rows than the manifest says.
        """
        return self.read(msgspec.json.decode)

    def read(self, decode: Callable[[bytes], Any], columns: Collection[str] | None = None) -> Iterator[Any]:
        """
        Read all rows as :meth:`__iter__` does, but only some of their columns.

        :param decode: makes a row of a line of JSON.
        :param columns: which columns are read of Parquet.
        """
        for part in self.manifest.parts:
            count = 0
            rows = (
                self._rows_of_parquet(part, columns) if self.is_parquet else self._rows_of_lines(part, decode)
            )
            for row in rows:
                count += 1
                if part.partition is not None:
                    row.update(part.partition)
                yield row
            self._check_rows(part, count)

    def _check_rows(self, part: Part, count: int) -> None:
        if count != part.rows:
            raise InvalidInputError(
                f"{self._directory / part.file} has {count:,} rows, but {MANIFEST_FILE} says "
                f"{part.rows:,}: it was changed after the job was complete"
            )

    def _rows_of_lines(self, part: Part, decode: Callable[[bytes], Any]) -> Iterator[Any]:
        path = self._directory / part.file
        number = 0
        try:
            with open_binary(path) as lines:
                for number, line in enumerate(lines, 1):  # noqa: B007 - the error names it
                    yield decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"{path}, line {number}: not a result ({error})") from error

    def _rows_of_parquet(self, part: Part, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
        with open_binary(self._directory / part.file) as handle, self._parquet(handle, part) as file:
            schema = file.schema_arrow
            wanted = [name for name in schema.names if columns is None or name in columns]
            readers = [(name, read) for name in wanted if (read := json_reader(schema.field(name)))]
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                for row in rows_of(batch):
                    for name, read in readers:
                        row[name] = read(row[name])
                    yield row

    def _parquet(self, handle: Any, part: Part) -> Any:
        try:
            return pyarrow("pyarrow.parquet").ParquetFile(handle)
        except pyarrow("pyarrow").ArrowException as error:
            raise InvalidInputError(
                f"{self._directory / part.file} is not a Parquet file: {error}"
            ) from error

    def parquet_schema(self) -> Any:
        """Return the Arrow schema of the rows; None if they are JSON lines, or if there are none."""
        return self._schema(self.manifest.parts[0]) if self.is_parquet and self.manifest.parts else None

    def to_arrow(self) -> Any:
        """
        Return all rows as a ``pyarrow.Table``.

        In JSON lines, a column whose values have no common type becomes text, with JSON for what is no text.

        :raises InvalidInputError: if pyarrow is not installed.
        """
        arrow = pyarrow("pyarrow")
        if not self.is_parquet:
            return table_of(iter(self))
        tables = [
            arrow.Table.from_batches(self._batches(part), self._schema(part)) for part in self.manifest.parts
        ]
        return arrow.concat_tables(tables) if tables else arrow.table({})

    def batches(self) -> Iterator[Any]:
        """
        Read all rows as ``pyarrow.RecordBatch``, some thousand at a time; the results must be Parquet.

        :raises InvalidInputError: if a part has another number of rows than the manifest says.
        """
        for part in self.manifest.parts:
            yield from self._batches(part)

    def _batches(self, part: Part) -> Iterator[Any]:
        arrow, schema, count = pyarrow("pyarrow"), self._schema(part), 0
        more = [(schema.field(name).type, value) for name, value in (part.partition or {}).items()]
        with open_binary(self._directory / part.file) as handle, self._parquet(handle, part) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                count += batch.num_rows
                values = [arrow.repeat(arrow.scalar(value, kind), batch.num_rows) for kind, value in more]
                yield arrow.record_batch([*batch.columns, *values], schema=schema)
        self._check_rows(part, count)

    def _schema(self, part: Part) -> Any:
        """Return the columns of a part, with that of the directories; all parts have the same."""
        arrow = pyarrow("pyarrow")
        types = {"integer": arrow.int64(), "number": arrow.float64(), "boolean": arrow.bool_()}
        with open_binary(self._directory / part.file) as handle, self._parquet(handle, part) as file:
            schema = file.schema_arrow
        for name in part.partition or {}:
            values = [(each.partition or {}).get(name) for each in self.manifest.parts]
            kind = common_type(type_of(value) for value in values if value is not None)
            schema = schema.append(arrow.field(name, types.get(kind, arrow.string())))
        return schema

    def to_pandas(self) -> Any:
        """
        Return all rows as a ``pandas.DataFrame``.

        :raises InvalidInputError: if pandas or pyarrow is not installed.
        """
        _installed("pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """
        Return all rows as a ``polars.DataFrame``.

        :raises InvalidInputError: if Polars or pyarrow is not installed.
        """
        return _installed("polars").from_arrow(self.to_arrow())


def _installed(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InvalidInputError(f"This needs {library}: pip install {library}") from error


def _check_parts(directory: AnyPath, manifest: Manifest) -> None:
    """
    Compare the files with the manifest; it takes one listing.

    :raises InvalidInputError: names what differs.
    """
    folders = {folder for part in manifest.parts for folder in part.file.split("/")[:-1]}
    sizes = _sizes(directory, folders) if manifest.parts else {}
    for part in manifest.parts:
        if not _is_part_name(part.file):
            raise InvalidInputError(
                f"{MANIFEST_FILE} in {directory} names {part.file!r:.100}, which is no part"
            )
        if part.file not in sizes:
            raise InvalidInputError(f"The results in {directory} are not complete: {part.file} is missing")
        if sizes[part.file] != part.bytes:
            raise InvalidInputError(
                f"{directory / part.file} has {sizes[part.file]:,} bytes, but {MANIFEST_FILE} says "
                f"{part.bytes:,}: it was changed after the job was complete, or copied in part"
            )
    if (rows := sum(part.rows for part in manifest.parts)) != manifest.rows:
        raise InvalidInputError(
            f"{MANIFEST_FILE} in {directory} says {manifest.rows:,} rows, but its parts have {rows:,}"
        )


def _is_part_name(name: str) -> bool:
    """Whether this is a file in the directory of the results, or in one right below it."""
    *folders, file = name.split("/")
    return len(folders) <= 1 and all(map(is_bare_name, [*folders, file]))


def _sizes(directory: AnyPath, folders: set[str]) -> dict[str, int]:
    plain = local(directory)
    if plain is not None:
        return dict(_sizes_in(plain, folders))
    directory.fs.invalidate_cache(directory.path)
    if not folders:
        found = directory.fs.ls(directory.path, detail=True)
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found}
    own = directory.path.strip("/") + "/"
    below = directory.fs.find(directory.path, detail=True)
    return {name.lstrip("/").removeprefix(own): entry["size"] for name, entry in below.items()}


def _sizes_in(directory: Path, folders: Iterable[str]) -> Iterator[tuple[str, int]]:
    for folder in ("", *folders):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory / folder) as entries:
            for entry in entries:
                yield f"{folder}/{entry.name}".lstrip("/"), entry.stat().st_size
