"""
Writes results to a Delta table in one commit, once, whatever dies.

The files of a load are part of the table when its commit is there, and not before. A missing table is made
first, without rows. The commit of an append also says which results it added, as an application transaction
of Delta's protocol. A later try finds that in the table, and Delta refuses the commit of a try that did not
see it, because both were under way at the same time. An overwrite that is repeated leaves the same table, and
needs no such note.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers
"""

from __future__ import annotations

import hashlib
import importlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed
from airflow_provider_openai_batches.inference.data.arrow import pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_openai_batches.results import ResultRows

DELTA_MODES = ("append", "overwrite")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MAX_SAID = 500


class Commit(msgspec.Struct, frozen=True):
    """
    What a load did.

    :param rows: how many rows of the results are in the table.
    :param before: whether an earlier try had added them.
    """

    rows: int
    before: bool = False


def check_mode(mode: str) -> None:
    """:raises InvalidInputError: if there is no such mode."""
    if mode not in DELTA_MODES:
        raise InvalidInputError(f"mode is {mode!r}: it must be {' or '.join(map(repr, DELTA_MODES))}")


def write(
    results: list[ResultRows],
    table_uri: str,
    *,
    mode: str,
    statuses: frozenset[str],
    storage_options: Mapping[str, str] | None = None,
) -> Commit:
    """
    Write the rows of finished jobs, all of them or none.

    :raises InvalidInputError: if the results or the table cannot be used; nothing was written.
    :raises LoadFailed: if the table could not be reached, or others changed it; the next try writes all.
    """
    delta, errors = _deltalake()
    check_mode(mode)
    _check_uri(table_uri)
    schema = _common_schema(results)
    rows = sum(job.counts.get(status, 0) for job in results for status in statuses)
    options = dict(storage_options or {})
    rejected = (errors.SchemaMismatchError, errors.DeltaProtocolError)
    batches = _Batches(results, schema, statuses)
    try:
        if mode == "overwrite" and not rows and any(map(len, results)):
            raise InvalidInputError(
                f"Not one of {sum(map(len, results)):,} rows is {' or '.join(sorted(statuses))}: {table_uri} "
                "is left as it was, not emptied"
            )
        table = _table(delta, table_uri, schema, options)
        app_id = _app_id(results, statuses)
        if mode == "append" and table.transaction_version(app_id) is not None:
            return Commit(rows, before=True)
        transactions = [delta.Transaction(app_id, 1)] if mode == "append" else None
        properties = delta.CommitProperties(app_transactions=transactions)
        delta.write_deltalake(table, batches.reader(), mode=mode, commit_properties=properties)
    except rejected as error:
        raise InvalidInputError(
            f"The table {table_uri} does not take the results: {_said(error)}. Nothing was written. Their "
            f"columns are {', '.join(f'{field.name} {field.type}' for field in schema)}"
        ) from error
    except (errors.DeltaError, OSError) as error:
        if batches.error is not None:
            raise batches.error from error
        raise LoadFailed(
            f"The results were not written to {table_uri}: {_said(error)}. The table has all of them or "
            "none; the next try leaves it with all, once"
        ) from error
    return Commit(rows)


def _deltalake() -> tuple[Any, Any]:
    try:
        return tuple(map(importlib.import_module, ("deltalake", "deltalake.exceptions")))  # type: ignore[return-value]
    except ImportError as error:
        raise InvalidInputError(
            "A Delta table needs deltalake: install airflow-provider-openai-batches[delta]"
        ) from error


def _check_uri(table_uri: str) -> None:
    scheme, found, place = table_uri.partition("://")
    if found and "@" in place.partition("/")[0] and not scheme.startswith("abfs"):
        raise InvalidInputError(
            f"table_uri {table_uri!r} names a connection, which Delta does not know: leave it out, and give "
            "credentials as storage_options, or in the environment"
        )


def _table(delta: Any, table_uri: str, schema: Any, options: dict[str, str]) -> Any:
    """
    Return the table as it is now.

    A missing one is made first, without rows: of two tries that add rows to a table which neither has seen,
    Delta would take both.
    """
    try:
        if not delta.DeltaTable.is_deltatable(table_uri, options):
            delta.DeltaTable.create(table_uri, schema, mode="ignore", storage_options=options)
        return delta.DeltaTable(table_uri, storage_options=options)
    except ValueError as error:
        raise InvalidInputError(f"table_uri {table_uri!r} is no place for a table: {_said(error)}") from error


def _app_id(results: list[ResultRows], statuses: frozenset[str]) -> str:
    """Return what names a load: the same rows of the same jobs. A job that runs anew ends at another time."""
    manifests = [job.manifest for job in results]
    known = sorted([job.digest, *sorted(job.made_by.items()), job.times.get("finished")] for job in manifests)
    given = msgspec.json.encode([known, sorted(statuses)])
    return f"openai-batches-{hashlib.sha256(given).hexdigest()}"


def _common_schema(results: list[ResultRows]) -> Any:
    """
    Return the columns of all results, as Delta has them.

    :raises InvalidInputError: if their columns differ, or they have no types.
    """
    arrow, common, first = pyarrow("pyarrow"), None, ""
    for job in results:
        found = job.parquet_schema()
        if found is None:
            raise InvalidInputError(
                f"The results in {job.uri} are JSON lines, whose columns have no types: a Delta table needs "
                "output_format='parquet'"
            )
        schema = arrow.schema([(field.name, _plain(arrow, field.type)) for field in found])
        if common is None:
            common, first = schema, job.uri
        if not schema.equals(common):
            own = [field for field in schema if field not in list(common)]
            names = ", ".join(f"{field.name} {field.type}" for field in own) or "fewer of them"
            raise InvalidInputError(
                f"The results in {job.uri} have other columns than those in {first}: {names}. Write them in "
                "tasks of their own"
            )
    return common


def _plain(arrow: Any, kind: Any) -> Any:
    """Return a type without what only Arrow's readers know: marks, and lists of a fixed size."""
    types = arrow.types
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return arrow.list_(arrow.field("element", _plain(arrow, kind.value_type)))
    if types.is_struct(kind):
        return arrow.struct([(field.name, _plain(arrow, field.type)) for field in kind])
    return kind


class _Batches:
    """
    The rows of the results that are written, as one stream.

    :ivar error: why reading them failed; Delta has only its text.
    """

    def __init__(self, results: list[ResultRows], schema: Any, statuses: frozenset[str]) -> None:
        self._results, self._schema, self._statuses = results, schema, sorted(statuses)
        self.error: Exception | None = None

    def reader(self) -> Any:
        return pyarrow("pyarrow").RecordBatchReader.from_batches(self._schema, self._read())

    def _read(self) -> Iterator[Any]:
        arrow, compute = pyarrow("pyarrow"), pyarrow("pyarrow.compute")
        wanted = arrow.array(self._statuses, arrow.string())
        try:
            for job in self._results:
                for batch in job.batches():
                    table = arrow.Table.from_batches([batch])
                    rows = table.filter(compute.is_in(table["status"], wanted))
                    yield from rows.cast(self._schema).to_batches()
        except Exception as error:
            self.error = error
            raise


def _said(error: Exception) -> str:
    return " ".join(_COLOURS.sub("", str(error)).split())[:_MAX_SAID].rstrip(".")
