"""Which columns a table gets from results, and the values of one row for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.requests import OUTPUT_TEXT_COLUMN, RESULT_COLUMNS
from airflow_provider_openai_batches.results import wanted_statuses
from airflow_provider_openai_batches.sql.kinds import (
    Convert,
    Kind,
    common_kind,
    kind_at,
    kind_of,
    properties_of,
    schema_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from airflow_provider_openai_batches.results import ResultRows

MODES = ("upsert", "append", "replace")
# Rows may have this column: it says which ones were not asked about, but found in a store of answers.
SOURCE = "source"


class Filled(msgspec.Struct, frozen=True):
    """
    A column of the table, and where in a row of results its values are.

    :param kind: what the schema of the output says of them; None if it is not known.
    """

    name: str
    path: tuple[str, ...]
    kind: Kind | None = None

    @property
    def source(self) -> str:
        """The path as it was given."""
        return ".".join(self.path)


class Filling(msgspec.Struct, frozen=True):
    """
    What is written to a table.

    :param key: the names of the columns whose values, together, each row has alone.
    :param statuses: which rows are written.
    """

    columns: tuple[Filled, ...]
    key: tuple[str, ...]
    mode: str
    statuses: frozenset[str]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]


def filling(
    columns: Mapping[str, str] | None,
    *,
    key: str | Sequence[str] | None,
    mode: str,
    statuses: Iterable[str],
    output_schema: Any = None,
) -> Filling:
    """
    Check what is to be written, as far as that can be told without rows and without a database.

    :param columns: for each column of the table, the path of its values, such as ``"output.city"``; default:
        a column for each field of the schema, and without a schema ``output``.
    :raises InvalidInputError: if an argument is unknown, or names what the schema does not have.
    """
    if mode not in MODES:
        raise InvalidInputError(f"mode is {mode!r}: it must be {', '.join(map(repr, MODES))}")
    wanted = wanted_statuses(statuses)
    keys = _names(key)
    if mode == "upsert" and not keys:
        raise InvalidInputError("mode='upsert' needs a key: the column, or columns, that tell rows apart")
    schema = None if output_schema is None else schema_of(output_schema)
    paths = dict(columns) if columns is not None else _default_paths(schema)
    missing = {name: name for name in keys if name not in paths}
    filled = tuple(_filled(name, path, schema) for name, path in {**missing, **paths}.items())
    if not filled:
        raise InvalidInputError("columns is empty: name at least one column of the table")
    return Filling(filled, keys, mode, wanted)


def _names(key: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if key is None else (key,) if isinstance(key, str) else tuple(key)


def _default_paths(schema: dict[str, Any] | None) -> dict[str, str]:
    fields = properties_of(schema) if schema is not None else []
    return {name: f"output.{name}" for name in fields} or {"output": "output"}


def _filled(name: Any, path: Any, schema: dict[str, Any] | None) -> Filled:
    if not isinstance(name, str) or not isinstance(path, str) or not all(path.split(".")):
        raise InvalidInputError(
            f"columns has {name!r:.80}: {path!r:.80}. It needs a column of the table, and the path of its "
            "values in a row of results, such as 'output' or 'output.city'"
        )
    steps = tuple(path.split("."))
    kind: Kind | None = None
    if steps[0] == "output" and schema is not None:
        try:
            kind = kind_at(schema, steps[1:])
        except LookupError as error:
            raise InvalidInputError(
                f"columns takes {name!r} from {path!r}, but output_schema has no field {error.args[0]!r} "
                f"there; it has {', '.join(properties_of(schema)) or 'none'}"
            ) from error
    return Filled(name, steps, kind)


def check_row_columns(columns: Iterable[Filled], known: Iterable[str]) -> tuple[Filled, ...]:
    """
    Find the columns in those that the rows have.

    :param known: the columns that every row has; one of them may have a dot in its name.
    :raises InvalidInputError: if a column is to be filled from one that is not there.
    """
    names = {*known, *RESULT_COLUMNS, OUTPUT_TEXT_COLUMN, SOURCE}
    found = []
    for column in columns:
        whole = msgspec.structs.replace(column, path=(column.source,)) if column.source in names else column
        if whole.path[0] not in names:
            raise InvalidInputError(
                f"The column {column.name!r} is to be filled from {column.source!r}, which the results do "
                f"not have. They have {', '.join(sorted(names))}. Other columns of the input need "
                "keep_columns"
            )
        found.append(whole)
    return tuple(found)


NOTHING_WRITTEN = "Nothing was written"


class Misfit(InvalidInputError):
    """A value does not fit the column that it is for."""


class RowValues:
    """
    Takes the values of the columns out of rows, and leaves out rows with other statuses.

    :param converters: a function for each column that makes its value, or raises a ``ValueError``; default:
        values stay as they are.
    :param needed: the columns that need a value in each row.
    """

    def __init__(
        self,
        filling: Filling,
        converters: Sequence[Convert] | None = None,
        needed: Container[str] = (),
    ) -> None:
        self._statuses = filling.statuses
        self._columns = filling.columns
        self._converters = converters or [_as_it_is] * len(filling.columns)
        self._takers = [
            _taker(column, convert, is_needed=column.name in needed)
            for column, convert in zip(filling.columns, self._converters, strict=True)
        ]
        # Only these are decoded; usage, errors and long output that nobody asked for are passed over.
        self._fields = {"custom_id", "status", *(column.path[0] for column in filling.columns)}
        self._shape = TypedDict("_Row", dict.fromkeys(self._fields, Any), total=False)  # type: ignore[misc]

    def read(self, results: Iterable[ResultRows]) -> Iterator[tuple[str, list[Any]]]:
        """
        Yield custom_id and values of the rows.

        :raises Misfit: if there can be no value at a path, or a column does not take one.
        """
        decode = msgspec.json.Decoder(self._shape).decode
        statuses, takers = self._statuses, self._takers
        for job in results:
            for row in job.read(decode, self._fields):
                if row["status"] in statuses:
                    try:
                        yield row["custom_id"], [take(row) for take in takers]
                    except (ValueError, OverflowError) as error:
                        raise self._misfit(row, error) from error

    def _misfit(self, row: dict[str, Any], error: Exception) -> Misfit:
        place = next(place for place, take in enumerate(self._takers) if _fails(take, row))
        column = self._columns[place]
        where = f"Row {row['custom_id']!r:.80}, column {column.name!r}: "
        try:
            value = _getter(column)(row)
        except ValueError:
            return Misfit(f"{where}{column.source!r} leads to no value: {error}. {NOTHING_WRITTEN}")
        return Misfit(f"{where}{value!r:.80} does not fit: {error}. {NOTHING_WRITTEN}")


def _fails(take: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> bool:
    try:
        take(row)
    except (ValueError, OverflowError):
        return True
    return False


def _as_it_is(value: Any) -> Any:
    return value


def _taker(column: Filled, convert: Convert, *, is_needed: bool) -> Callable[[dict[str, Any]], Any]:
    get, top = _getter(column), column.path[0]

    def take(row: dict[str, Any]) -> Any:
        value = row.get(top) if is_plain else get(row)
        if value is not None:
            return convert(value)
        if is_needed:
            raise ValueError("the column needs a value in each row")
        return None

    is_plain = len(column.path) == 1
    return take


def _getter(column: Filled) -> Callable[[dict[str, Any]], Any]:
    top, *steps = column.path

    def deep(row: dict[str, Any]) -> Any:
        value = row.get(top)
        if isinstance(value, str):
            value = _decoded(value, is_good=row["status"] == "succeeded")
        for step in steps:
            value = _step(value, step)
        return value

    return deep if steps else lambda row: row.get(top)


def _decoded(text: str, *, is_good: bool) -> Any:
    """Read JSON in text, as Parquet has objects; an answer that is no good may be no JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if is_good:
            raise ValueError(f"the text {text!r:.60} is not JSON ({error})") from error
        return None


def _step(value: Any, step: str) -> Any:
    if value is None or isinstance(value, dict):
        return None if value is None else value.get(step)
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.60} has no {step!r}")  # noqa: TRY004 - as every value that does not fit
    if not step.isdecimal():
        raise ValueError(f"a list has no {step!r}; its values are .0, .1, ...")
    return value[int(step)] if int(step) < len(value) else None


def find_kinds(filling: Filling, results: list[ResultRows]) -> dict[str, Kind]:
    """
    Return the kind of each column by its name: from the schema, from Parquet's types, or else from all
    values.

    :raises Misfit: if there can be no value at a path.
    """
    known = {column.name: column.kind or _kind_in_parquet(column, results) for column in filling.columns}
    open_columns = [column for column in filling.columns if known[column.name] is None]
    seen: dict[str, set[Kind]] = {column.name: set() for column in open_columns}
    some = msgspec.structs.replace(filling, columns=tuple(open_columns))
    found = list(seen.values())
    for _, values in RowValues(some).read(results):
        for kinds, value in zip(found, values, strict=True):
            if (kind := kind_of(value)) is not None:
                kinds.add(kind)
        if all("text" in kinds for kinds in found):  # and so they will be, whatever follows
            break
    return {name: kind or common_kind(seen[name]) for name, kind in known.items()}


_IN_PARQUET: dict[str, Kind] = {"int64": "integer", "double": "number", "bool": "boolean"}


def _kind_in_parquet(column: Filled, results: list[ResultRows]) -> Kind | None:
    """Text is left open: it may hold JSON."""
    schemas = [job.parquet_schema() for job in results]
    if not schemas or any(schema is None for schema in schemas) or len(column.path) > 1:
        return "text" if column.path == ("custom_id",) else None
    names = {
        str(schema.field(column.path[0]).type) if column.path[0] in schema.names else "" for schema in schemas
    }
    return _IN_PARQUET.get(names.pop()) if len(names) == 1 else None
