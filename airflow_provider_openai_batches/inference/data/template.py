"""Request bodies from a template with ``{column}`` placeholders; values are data, never interpreted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Renderer: TypeAlias = Callable[[Mapping[str, Any]], Any]

_TOKEN = re.compile(r"(\{\{|\}\}|\{[^{}]+\}|[{}])")
_ESCAPES = {"{{": "{", "}}": "}"}


class BodyTemplate:
    """
    A JSON-like structure whose strings may hold ``{column}``, at any depth.

    A string that is one placeholder becomes the row's value with its type; a placeholder inside text becomes
    the value's text (a string as it is, everything else as compact JSON). ``{{`` and ``}}`` are braces. Keys
    are not looked into.

    :raises InvalidInputError: if the template has a single brace, or a key that is no string.
    """

    def __init__(self, template: Any) -> None:
        node = _compile(template, "body")
        self._render: Renderer = node if callable(node) else lambda _row: node

    def render(self, row: Mapping[str, Any]) -> Any:
        """
        Fill the placeholders with the values of one row.

        :raises InvalidInputError: if the row has no such column, or a value has no text; it names the column.
        """
        return self._render(row)


def unknown_column(column: str, row: Mapping[str, Any]) -> str:
    """Say what is wrong, and which columns there are."""
    known = ", ".join(map(str, row)) or "none"
    brace = "; a brace that is meant as text is written twice" if '"' in column or "\n" in column else ""
    return f"it has no column {column!r}, its columns are {known}{brace}"


def _compile(node: Any, where: str) -> Any:
    """A renderer for what depends on the row, the value itself for what does not."""
    if isinstance(node, str):
        return _compile_text(node, where)
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str):
                raise InvalidInputError(f"{where} has the key {key!r}: keys are strings")
        parts: Any = {key: _compile(value, f"{where}.{key}") for key, value in node.items()}
        return _filled(parts, [(key, part) for key, part in parts.items() if callable(part)])
    if isinstance(node, list | tuple):
        parts = [_compile(value, f"{where}[{index}]") for index, value in enumerate(node)]
        return _filled(parts, [(index, part) for index, part in enumerate(parts) if callable(part)])
    if callable(node):
        raise InvalidInputError(f"{where} is {node!r}: a template holds JSON values")
    return node


def _filled(parts: Any, dynamic: list[tuple[Any, Renderer]]) -> Any:
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
    pieces: list[str | Renderer] = []
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


def _column(name: str) -> Renderer:
    def value(row: Mapping[str, Any]) -> Any:
        try:
            return row[name]
        except KeyError:
            raise InvalidInputError(unknown_column(name, row)) from None

    return value


def _column_text(name: str) -> Renderer:
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
