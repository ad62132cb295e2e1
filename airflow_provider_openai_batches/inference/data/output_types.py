"""
The types that structured output has in columns, as far as its JSON schema says them.

A type is ``"text"``, ``"integer"``, ``"number"`` or ``"boolean"``, a list of one type, or a dict: an object
with these fields alone. What the schema leaves open is ``"json"``: JSON in text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OutputType: TypeAlias = "str | list[Any] | dict[str, Any]"

JSON = "json"
_PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
_OF_VALUES = {str: "text", int: "integer", float: "number", bool: "boolean"}
_CHOICES = ("anyOf", "oneOf", "allOf")
# Beside "properties", these say more of the fields than their list does.
_MORE_FIELDS = frozenset({*_CHOICES, "patternProperties", "if", "dependentSchemas"})
_INTEGERS = 1 << 63


def output_type(schema: dict[str, Any]) -> OutputType:
    """Return the type of all values that match a JSON schema; it depends on the schema alone."""
    return _Walk(schema).type_of(schema, frozenset({"#"}))


class _Walk:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def type_of(self, node: Any, above: frozenset[str]) -> OutputType:
        """
        Return the type of a part of the schema.

        :param above: the references that led here; one that comes again is a schema that contains itself.
        """
        return _common(list(self._types(node, above)))

    def _types(self, node: Any, above: frozenset[str]) -> Iterator[OutputType]:
        """Yield the type of each form that a value may have, except null."""
        if not isinstance(node, dict):  # true and false are schemas, too
            yield JSON
        elif "$ref" in node:
            reference = node["$ref"]
            target = None if reference in above else self._target(reference)
            yield from [JSON] if target is None else self._types(target, above | {reference})
        elif "type" in node:
            names = node["type"] if isinstance(node["type"], list) else [node["type"]]
            yield from (self._named(name, node, above) for name in names if name != "null")
        elif "enum" in node or "const" in node:
            values = node.get("enum", [node.get("const")])
            yield from (_OF_VALUES.get(type(value), JSON) for value in values if value is not None)
        elif "properties" in node:
            yield self._object(node, above)
        else:
            yield from self._chosen(node, above)

    def _chosen(self, node: dict[str, Any], above: frozenset[str]) -> Iterator[OutputType]:
        choices = [word for word in _CHOICES if word in node]
        if len(choices) != 1 or ("allOf" in node and len(node["allOf"]) > 1):
            yield JSON
            return
        for form in node[choices[0]]:
            yield from self._types(form, above)

    def _named(self, name: str, node: dict[str, Any], above: frozenset[str]) -> OutputType:
        if name == "object":
            return self._object(node, above)
        return self._array(node, above) if name == "array" else _PLAIN.get(name, JSON)

    def _object(self, node: dict[str, Any], above: frozenset[str]) -> OutputType:
        fields = node.get("properties")
        is_open = node.get("additionalProperties", False) is not False or node.keys() & _MORE_FIELDS
        # Many readers do not tell upper case from lower case.
        if not fields or is_open or len({name.casefold() for name in fields}) < len(fields):
            return JSON
        return {name: self.type_of(child, above) for name, child in fields.items()}

    def _array(self, node: dict[str, Any], above: frozenset[str]) -> OutputType:
        first, rest = node.get("prefixItems", []), node.get("items", True)
        if isinstance(rest, list):  # before draft 2020-12
            first, rest = rest, node.get("additionalItems", True)
        if first and node.get("maxItems", len(first) + 1) <= len(first):
            rest = False
        items = [*first, *([] if rest is False else [rest])]
        return [_common([self.type_of(item, above) for item in items])]

    def _target(self, reference: Any) -> Any:
        """Return what a reference within the schema leads to; None for any other."""
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return None
        target: Any = self._root
        for step in unquote(reference[2:]).split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        return target


def _common(types: list[OutputType]) -> OutputType:
    unique = [kind for number, kind in enumerate(types) if kind not in types[:number]]
    if len(unique) == 1:
        return unique[0]
    return "number" if unique and all(kind in ("integer", "number") for kind in unique) else JSON


class Fitter:
    """Makes values fit a type, and says whether the result holds all of them."""

    def __init__(self, kind: OutputType) -> None:
        self._fit = self._of(kind)
        self._is_whole = True

    def fit(self, value: Any) -> tuple[Any, bool]:
        """
        Return the value as the type has it, and whether nothing is missing.

        Null stands for a value that has another type, also within an object: the schema may say more than
        the type, but a server that is not strict may send anything.
        """
        self._is_whole = True
        return self._fit(value), self._is_whole

    def _of(self, kind: OutputType) -> Callable[[Any], Any]:
        if isinstance(kind, list):
            return self._list(self._of(kind[0]))
        if isinstance(kind, dict):
            return self._struct({name: self._of(child) for name, child in kind.items()})
        return {
            "text": self._text,
            "integer": self._integer,
            "number": self._number,
            "boolean": self._boolean,
            JSON: _json_text,
        }[kind]

    def _misfit(self, value: Any) -> None:
        self._is_whole = self._is_whole and value is None

    def _text(self, value: Any) -> Any:
        return value if type(value) is str else self._misfit(value)

    def _boolean(self, value: Any) -> Any:
        return value if type(value) is bool else self._misfit(value)

    def _integer(self, value: Any) -> Any:
        if type(value) is float and value.is_integer():  # 1.0 is an integer in JSON
            value = int(value)
        fits = type(value) is int and -_INTEGERS <= value < _INTEGERS
        return value if fits else self._misfit(value)

    def _number(self, value: Any) -> Any:
        if type(value) is not int:
            return value if type(value) is float else self._misfit(value)
        try:
            number = float(value)
        except OverflowError:
            return self._misfit(value)
        self._is_whole = self._is_whole and int(number) == value
        return number

    def _list(self, fit: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda value: list(map(fit, value)) if isinstance(value, list) else self._misfit(value)

    def _struct(self, fields: dict[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def struct(value: Any) -> Any:
            if not isinstance(value, dict):
                return self._misfit(value)
            self._is_whole = self._is_whole and value.keys() <= fields.keys()
            return {name: fit(value.get(name)) for name, fit in fields.items()}

        return struct


def _json_text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
