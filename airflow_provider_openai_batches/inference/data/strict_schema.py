"""
The form of a JSON schema that strict mode takes, or the place that has no such form.

What only narrows a value is left out where the service does not know it: the answer is checked against the
schema that was given. https://developers.openai.com/api/docs/guides/structured-outputs#supported-schemas
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_openai_batches.exceptions import InvalidInputError

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
# Keywords that only narrow a value, or say nothing to the service.
_LEFT_OUT = frozenset(
    {"default", "discriminator", "uniqueItems", "contains", "minContains", "maxContains"}
    | {"minProperties", "maxProperties", "propertyNames", "dependentRequired", "dependentSchemas"}
    | {"not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties", "$schema", "$id"}
)
_NAMED = frozenset({"properties", "$defs", "definitions"})
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_HINT = "or choose strict=False"


def strict_form(schema: dict[str, Any], where: str, *, is_model: bool) -> dict[str, Any]:
    """
    Return the strict form of a schema: nothing optional, no additional keys, only keywords that are known.

    :param where: its name in messages.
    :param is_model: whether it is that of a pydantic model, which may make its optional fields required.
    :raises InvalidInputError: naming the field that has no strict form.
    """
    if "$ref" in schema:  # a model that contains itself; the root has to be an object
        schema = {**schema, **schema.get("$defs", {}).get(schema["$ref"].removeprefix("#/$defs/"), {})}
        del schema["$ref"]
    if schema.get("type", "object" if "properties" in schema else None) != "object":
        needs = "a model with fields" if is_model else "'type': 'object' at its root"
        raise InvalidInputError(f"{where} is not an object: strict output needs {needs}, {_HINT}")
    strict: dict[str, Any] = _Walk(is_model=is_model).node(schema, where)
    return strict


class _Walk:
    def __init__(self, *, is_model: bool) -> None:
        self._is_model = is_model

    def node(self, node: Any, where: str) -> Any:
        if not isinstance(node, dict):
            raise InvalidInputError(
                f"{where} is {node!r}, which strict output does not take: give its type, {_HINT}"
            )
        strict = {key: self._value(key, value, where) for key, value in node.items() if _is_known(key, value)}
        _add_type(strict)
        if (
            "oneOf" in strict
        ):  # the service has no oneOf; the answer is checked against the one that was given
            strict["anyOf"] = [*strict.get("anyOf", []), *strict.pop("oneOf")]
        if "allOf" in strict or "patternProperties" in strict:
            raise InvalidInputError(
                f"{where} has an allOf or patternProperties: write its fields out, {_HINT}"
            )
        if "$ref" in strict and len(strict) > 1:  # no keyword, such as a description, may stand beside it
            strict["anyOf"] = [{"$ref": strict.pop("$ref")}]
        if not strict.keys() & {"type", "anyOf", "$ref"}:
            raise InvalidInputError(f"{where} has no type, which strict output needs: give one, {_HINT}")
        kinds = strict.get("type", ())
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        if "array" in kinds:
            _close_array(strict, where)
        if "object" in kinds:
            self._close_object(strict, node, where)
        return strict

    def _value(self, key: str, value: Any, where: str) -> Any:
        if key in _NAMED:
            prefix = where if key == "properties" else f"{where}.{key}"
            return {name: self.node(child, f"{prefix}.{name}") for name, child in value.items()}
        if key == "items" and value is not False:
            return self.node(value, f"{where}[]")
        if key in {"anyOf", "oneOf"}:
            return [self.node(child, where) for child in value]
        if key == "prefixItems":
            return [self.node(child, f"{where}[{number}]") for number, child in enumerate(value)]
        return value

    def _close_object(self, strict: dict[str, Any], node: dict[str, Any], where: str) -> None:
        names = list(node.get("properties", {}))
        if node.get("additionalProperties") or (
            "properties" not in node and node.get("additionalProperties", True)
        ):
            raise InvalidInputError(
                f"{where} allows keys of any name, which strict output does not: name its fields, {_HINT}"
            )
        optional = [name for name in names if name not in node.get("required", ())]
        if optional and not self._is_model:
            raise InvalidInputError(
                f"{where}.{optional[0]} is not in 'required', but strict output gives every field: "
                f"add it there (its type may be null as well), {_HINT}"
            )
        strict |= {
            "properties": strict.get("properties", {}),
            "additionalProperties": False,
            "required": names,
        }


def _is_known(key: str, value: Any) -> bool:
    if key == "format":
        return value in _FORMATS
    if key == "pattern":
        return not _LOOK_AROUND.search(value)
    return key not in _LEFT_OUT


def _add_type(strict: dict[str, Any]) -> None:
    """Add the type where the values or the other keywords say it."""
    if strict.keys() & {"type", "anyOf", "oneOf", "$ref"}:
        return
    values = [strict["const"]] if "const" in strict else strict.get("enum", [])
    kinds = list(dict.fromkeys(_TYPES.get(type(value)) for value in values))
    if kinds and None not in kinds:
        strict["type"] = kinds[0] if len(kinds) == 1 else kinds
    elif "properties" in strict:
        strict["type"] = "object"
    elif "items" in strict or "prefixItems" in strict:
        strict["type"] = "array"


def _close_array(strict: dict[str, Any], where: str) -> None:
    """Say what the items may be; where each place has its own type, the answer's order is checked alone."""
    first, rest = strict.pop("prefixItems", None), strict.get("items")
    if first is not None:
        known = [*first, *([rest] if isinstance(rest, dict) else [])]
        unique = [item for number, item in enumerate(known) if item not in known[:number]]
        strict["items"] = unique[0] if len(unique) == 1 else {"anyOf": unique}
        if rest is False:
            strict.setdefault("maxItems", len(first))
    elif not isinstance(rest, dict):
        raise InvalidInputError(f"{where} does not say what its items are: give 'items', {_HINT}")
