"""Makes requests from rows: prompts, request bodies, whole request lines, or rows and a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.job import default_id

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.endpoints import EndpointSpec
    from airflow_provider_openai_batches.inference.data.output_schema import OutputSchema

_Renderer: TypeAlias = Callable[[Mapping[str, Any]], Any]

RESULT_COLUMNS = ("custom_id", "status", "output", "usage", "error", "finish_reason")
SOURCE_COLUMN = "source"  # where rows may share their answers, the last one
OUTPUT_TEXT_COLUMN = "output_text"  # where the output has a type: what does not fit it
_PLAIN_ROWS = frozenset({dict, str})
_NO_TABLES = frozenset({"builtins", "itertools"})  # the modules of Python's own types
_MAPPINGS = (dict, Mapping)  # dict first: a check against an abstract class takes four times as long
MAX_CUSTOM_ID = 512  # characters; the service documents no limit, but anything longer is not an id
_TOKEN = re.compile(r"(\{\{|\}\}|\{[^{}]+\}|[{}])")
_ESCAPES = {"{{": "{", "}}": "}"}


class Request(msgspec.Struct, frozen=True, gc=False):
    """
    One request; ``row_number`` counts from 0, ``kept`` are the columns to write beside the result.

    ``is_named`` says that the ``custom_id`` was given; otherwise it comes from the row's number.
    """

    row_number: int
    custom_id: str
    body: dict[str, Any]
    kept: dict[str, Any]
    is_named: bool = True


def requests_from(
    rows: Iterable[Any],
    *,
    endpoint: str,
    body: Any = None,
    model: str | None = None,
    id_column: str | None = None,
    keep_columns: Iterable[str] = (),
    schema: OutputSchema | None = None,
    has_source: bool = False,
    has_output_text: bool = False,
) -> Iterator[Request]:
    """
    Make one request from each row, lazily.

    :param rows: without ``body``: prompts, request bodies (sent as they are), or whole request lines
        (``custom_id``, ``url``, ``body``); with ``body``: rows.
        Pandas and Polars data frames and Arrow tables, one or several, give a dict for each of their rows.
    :param endpoint: for example ``/v1/chat/completions``.
    :param body: a template (see :class:`BodyTemplate`) or a callable that takes a row; either gives a request
        body, or a prompt. It must always give the same for the same row: a batch is found again by its bytes.
    :param model: the model for bodies that do not name one.
    :param id_column: the column that becomes the ``custom_id``; default: ``row-0``, ``row-1``, …
    :param keep_columns: the columns to write beside each result.
    :param schema: the schema of each answer; it goes into each body in the endpoint's own form.
    :param has_source: whether the results have the column :data:`SOURCE_COLUMN`.
    :param has_output_text: whether they have the column :data:`OUTPUT_TEXT_COLUMN`.
    :raises InvalidInputError: at once if the arguments do not fit together; while iterating, naming the row,
        if a row cannot become a request.
    """
    rows = _rows_within(rows) or rows
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise InvalidInputError(
            f"the rows of a job must be a list or an iterator, not a {type(rows).__name__}"
        )
    keep = [keep_columns] if isinstance(keep_columns, str) else list(keep_columns)
    columns = {*RESULT_COLUMNS, *[SOURCE_COLUMN] * has_source, *[OUTPUT_TEXT_COLUMN] * has_output_text}
    if clash := sorted(columns.intersection(keep)):
        raise InvalidInputError(
            f"keep_columns has {', '.join(clash)}: that is a column of the results, rename it"
        )
    spec = spec_of(endpoint)
    if schema is not None:
        schema.check_endpoint(spec)
    builder = _Builder(endpoint, spec, _maker(body), model, id_column, keep, schema)
    return map(builder.build, count(), _each(rows))


def _each(rows: Iterable[Any]) -> Iterator[Any]:
    """Yield the rows; a table among them, such as one chunk of a file, gives its own."""
    for row in rows:
        if type(row) in _PLAIN_ROWS:
            yield row
        else:
            yield from _rows_within(row) or (row,)


def _rows_within(value: Any) -> Iterator[Any] | None:
    """Return the rows of a table; None for anything else."""
    if type(value).__module__ in _NO_TABLES:
        return None
    from airflow_provider_openai_batches.inference.data.readers.frames import rows_of_table  # noqa: PLC0415 - rarely needed

    return rows_of_table(value)


def name_row(number: int, custom_id: str) -> str:
    return (
        f"Row {number}" if custom_id == default_id(number) else f"Row {number} (custom_id {custom_id!r:.80})"
    )


class _Builder(msgspec.Struct, frozen=True):
    endpoint: str
    spec: EndpointSpec
    maker: Callable[[Any], Any] | None
    model: str | None
    id_column: str | None
    keep: list[str]
    schema: OutputSchema | None

    def build(self, number: int, row: Any) -> Request:
        custom_id, is_named = default_id(number), False
        try:
            if self.id_column is not None or not isinstance(row, str):  # a prompt has no id
                given = self._custom_id(row)
                custom_id, is_named = given or custom_id, given is not None
            body = self._finished(self._body(row))
            kept = {column: _value(row, column) for column in self.keep} if self.keep else {}
        except InvalidInputError as error:
            raise InvalidInputError(f"{name_row(number, custom_id)}: {error}") from error
        except Exception as error:
            error.add_note(f"while making the request body of {name_row(number, custom_id)}")
            raise
        return Request(number, custom_id, body, kept, is_named)

    def _custom_id(self, row: Any) -> str | None:
        if self.id_column is not None:
            value = _value(row, self.id_column)
        elif self.maker is None and _is_line(row):
            value = row["custom_id"]
        else:
            return None
        custom_id = "" if value is None else str(value)
        if not custom_id or len(custom_id) > MAX_CUSTOM_ID:
            raise InvalidInputError(
                f"its custom_id is {custom_id!r:.80}: it needs 1 to {MAX_CUSTOM_ID} characters, "
                f"but has {len(custom_id)}"
            )
        return custom_id

    def _body(self, row: Any) -> dict[str, Any]:
        made = row if self.maker is None else self.maker(row)
        if isinstance(made, str):
            return self.spec.prompt_body(made)
        if not isinstance(made, _MAPPINGS):
            raise InvalidInputError(
                f"a request must be a prompt or a dict, not {made!r:.80} ({type(made).__name__})"
            )
        if self.maker is None and _is_line(made):
            self._check_line(made)
            made = made["body"]
        return made if isinstance(made, dict) else dict(made)

    def _check_line(self, line: Mapping[str, Any]) -> None:
        for field, expected in (("url", self.endpoint), ("method", "POST")):
            if line.get(field, expected) != expected:
                raise InvalidInputError(
                    f"its {field} is {line[field]!r}, but that of the job is {expected!r}"
                )

    def _finished(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.model is not None and body.get("model") is None:
            body = {**body, "model": self.model}
        self.spec.check_body(body)
        return body if self.schema is None else self.schema.apply(body, self.spec)


def _is_line(row: Any) -> bool:
    return isinstance(row, _MAPPINGS) and "custom_id" in row and isinstance(row.get("body"), _MAPPINGS)


def _value(row: Any, column: str) -> Any:
    try:
        return _columns(row)[column]
    except KeyError:
        raise InvalidInputError(_unknown_column(column, row)) from None


def _columns(row: Any) -> Mapping[str, Any]:
    if isinstance(row, _MAPPINGS):
        return row
    raise InvalidInputError(f"a row must be a dict of its columns, not {row!r:.80} ({type(row).__name__})")


def _unknown_column(column: str, row: Mapping[str, Any]) -> str:
    """Say what is wrong, and which columns there are."""
    known = ", ".join(map(str, row)) or "none"
    brace = "; write a brace twice if it is meant as text" if '"' in column or "\n" in column else ""
    return f"it has no column {column!r}; its columns are {known}{brace}"


def _maker(body: Any) -> Callable[[Any], Any] | None:
    if body is None or (callable(body) and not isinstance(body, BodyTemplate)):
        return body
    template = body if isinstance(body, BodyTemplate) else BodyTemplate(body)

    def fill(row: Any) -> Any:
        _columns(row)
        return template.render(row)

    return fill


class BodyTemplate:
    """
    A JSON-like structure whose strings may hold ``{column}``, at any depth; values are never interpreted.

    A string that is one placeholder becomes the row's value with its type; a placeholder inside text becomes
    the value's text (a string as it is, everything else as compact JSON). ``{{`` and ``}}`` are braces. Keys
    are taken as they are.

    :raises InvalidInputError: if the template has a single brace, or a key that is not a string.
    """

    def __init__(self, template: Any) -> None:
        node = _compile(template, "body")
        self._render: _Renderer = node if callable(node) else lambda _row: node

    def render(self, row: Mapping[str, Any]) -> Any:
        """
        Fill the placeholders with the values of one row.

        :raises InvalidInputError: if the row has no such column, or a value cannot become text; it names the
            column.
        """
        return self._render(row)


def _compile(node: Any, where: str) -> Any:
    """Return a renderer for a value that depends on the row, and any other value as it is."""
    if isinstance(node, str):
        return _compile_text(node, where)
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str):
                raise InvalidInputError(f"{where} has the key {key!r}: keys must be strings")
        parts: Any = {key: _compile(value, f"{where}.{key}") for key, value in node.items()}
        return _filled(parts, [(key, part) for key, part in parts.items() if callable(part)])
    if isinstance(node, list | tuple):
        parts = [_compile(value, f"{where}[{index}]") for index, value in enumerate(node)]
        return _filled(parts, [(index, part) for index, part in enumerate(parts) if callable(part)])
    if callable(node):
        raise InvalidInputError(f"{where} is {node!r}: a template may only hold JSON values")
    return node


def _filled(parts: Any, dynamic: list[tuple[Any, _Renderer]]) -> Any:
    """Copy the container and fill in what depends on the row; the order of the keys stays."""
    if not dynamic:
        return parts

    def render(row: Mapping[str, Any]) -> Any:
        filled = parts.copy()
        for key, part in dynamic:
            filled[key] = part(row)
        return filled

    return render


def _compile_text(text: str, where: str) -> Any:
    pieces: list[str | _Renderer] = []
    tokens = _TOKEN.split(text)
    for token, is_brace in ((token, index % 2) for index, token in enumerate(tokens)):
        if not is_brace:
            pieces.append(token)
        elif token in _ESCAPES:
            pieces.append(_ESCAPES[token])
        elif len(token) == 1:
            raise InvalidInputError(f"{where} has a single {token!r}: write {token * 2!r} for the character")
        else:
            pieces.append(_column(token[1:-1]) if tokens == ["", token, ""] else _column_text(token[1:-1]))
    pieces = [piece for piece in pieces if piece != ""]
    if not any(callable(piece) for piece in pieces):
        return "".join(map(str, pieces))
    if len(pieces) == 1:
        return pieces[0]
    return lambda row: "".join([piece if isinstance(piece, str) else piece(row) for piece in pieces])


def _column(name: str) -> _Renderer:
    def value(row: Mapping[str, Any]) -> Any:
        try:
            return row[name]
        except KeyError:
            raise InvalidInputError(_unknown_column(name, row)) from None

    return value


def _column_text(name: str) -> _Renderer:
    value_of = _column(name)

    def text(row: Mapping[str, Any]) -> str:
        value = value_of(row)
        return value if isinstance(value, str) else _text(value, name)

    return text


def _text(value: Any, column: str) -> str:
    """Dates, UUIDs and Decimals as their text, everything else as compact JSON."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"column {column!r}: {error}") from error
    return str(msgspec.json.decode(encoded)) if encoded.startswith(b'"') else encoded.decode()
