"""The types of the values of a column, of which all rows have one: values of several types become text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

_INTEGERS = 1 << 63
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "text"}


def type_of(value: Any) -> str:
    """Return the type of a value that is not null; lists and objects, and very large integers, are text."""
    kind = _TYPES.get(type(value), "text")
    return "text" if kind == "integer" and not -_INTEGERS <= value < _INTEGERS else kind


def common_type(types: Iterable[str]) -> str:
    """Return the type of a column with values of these types."""
    found = set(types)
    if found == {"integer", "number"}:
        return "number"
    return found.pop() if len(found) == 1 else "text"


def text_of(value: Any) -> str | None:
    """Return text as it is, everything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
