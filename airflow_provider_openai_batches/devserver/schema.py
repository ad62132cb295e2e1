"""Makes a value that satisfies a JSON schema. The same schema and text always give the same value."""

from __future__ import annotations

from typing import Any
from zlib import crc32

MAX_DEPTH = 8
FORMATS = {
    "date": "2025-01-01",
    "date-time": "2025-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "devserver@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/devserver",
}


def choose(options: list[Any], text: str) -> Any:
    return options[crc32(text.encode("utf-8", "replace")) % len(options)]


def instance(schema: Any, text: str) -> Any:
    """
    Make a value.

    :param schema: a JSON schema; it may use object, array, string, number, integer, boolean, enum, const,
        ``$ref``, anyOf, oneOf and allOf.
    :param text: the prompt that the value answers.
    """
    return _Maker(schema, text).make(schema, "", 0)


class _Maker:
    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._text = text

    def make(self, schema: Any, path: str, depth: int) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return choose(schema["enum"], self._text + path)
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self.make(self._pick(options, depth), path, depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = "null" if depth > MAX_DEPTH and "null" in kind else kind[0]
        maker = getattr(self, f"_{kind}", None)
        return maker(schema, path, depth) if maker else None

    def _resolve(self, schema: Any) -> dict[str, Any]:
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            target = self._root
            for step in schema["$ref"].lstrip("#/").split("/"):
                target = target.get(step, {}) if isinstance(target, dict) and step else target
            schema = target
        if not isinstance(schema, dict):
            return {}
        merged = dict(schema)
        for part in map(self._resolve, schema.get("allOf", ())):
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            merged |= part
            if properties:
                merged["properties"] = properties
        return merged

    def _pick(self, options: list[Any], depth: int) -> Any:
        def is_null(option: Any) -> bool:
            return isinstance(option, dict) and option.get("type") == "null"

        wanted = [option for option in options if is_null(option) == (depth > MAX_DEPTH)]
        return (wanted or options)[0]

    def _object(self, schema: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        names = schema.get("properties", {})
        if depth > MAX_DEPTH:
            names = {name: names[name] for name in schema.get("required", ()) if name in names}
        if depth > 2 * MAX_DEPTH:
            return {}
        return {name: self.make(part, f"{path}.{name}", depth + 1) for name, part in names.items()}

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        count = least if depth > MAX_DEPTH else min(max(least, 1), schema.get("maxItems", max(least, 1)))
        return [self.make(schema.get("items", {}), f"{path}[{index}]", depth + 1) for index in range(count)]

    def _string(self, schema: dict[str, Any], path: str, _depth: int) -> str:
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]]
        value = f"devserver{path}: {self._text[-60:]}".ljust(schema.get("minLength", 0), ".")
        return value[: schema.get("maxLength", len(value))]

    def _integer(self, schema: dict[str, Any], path: str, _depth: int) -> int:
        unit = schema.get("multipleOf", 1)
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - 1)
        first, last = -int(-low // unit), int(high // unit)
        return int(
            choose(list(range(first, min(last, first + 100) + 1)) or [first], self._text + path) * unit
        )

    def _number(self, schema: dict[str, Any], path: str, _depth: int) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
        share = (crc32((self._text + path).encode("utf-8", "replace")) % 98 + 1) / 100
        unit = schema.get("multipleOf")
        value: float = low + (high - low) * share
        return value // unit * unit if unit else round(value, 6)

    def _boolean(self, _schema: dict[str, Any], path: str, _depth: int) -> bool:
        return bool(choose([False, True], self._text + path))
