"""The kinds of values that columns hold, by a JSON schema or by the values, and values made to fit them."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# "other" is a type that only the database knows, such as uuid: it gets text, and judges by itself.
Kind: TypeAlias = Literal["text", "integer", "number", "boolean", "json", "date", "timestamp", "other"]
Convert: TypeAlias = "Callable[[Any], Any]"

MAX_INTEGER = (1 << 63) - 1
_JSON_TYPES: dict[str, Kind] = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "object": "json",
    "array": "json",
}
_FORMATS: dict[str, Kind] = {"date": "date", "date-time": "timestamp"}
_INTEGER = re.compile(r"[+-]?\d+")
_TRUE, _FALSE = {"true", "t", "1"}, {"false", "f", "0"}
# Which columns take values of a known kind; every column takes values of an unknown one, and judges each.
TAKES: dict[Kind, frozenset[Kind]] = {
    "text": frozenset({"text", "integer", "number", "boolean", "json", "date", "timestamp"}),
    "integer": frozenset({"integer", "boolean"}),
    "number": frozenset({"integer", "number"}),
    "boolean": frozenset({"boolean"}),
    "json": frozenset({"text", "integer", "number", "boolean", "json", "date", "timestamp"}),
    "date": frozenset({"date", "text"}),
    "timestamp": frozenset({"timestamp", "date", "text"}),
    "other": frozenset({"text", "integer", "number", "boolean", "date", "timestamp"}),
}


def schema_of(output_schema: Any) -> dict[str, Any]:
    """
    Return the JSON schema of the values that a job with this schema has.

    :raises InvalidInputError: if it is neither a dict nor a pydantic model.
    """
    if isinstance(output_schema, type) and hasattr(output_schema, "model_json_schema"):
        found: dict[str, Any] = output_schema.model_json_schema(mode="serialization")
        return found
    if isinstance(output_schema, dict):
        return output_schema
    raise InvalidInputError(f"output_schema must be a dict or a pydantic model, not {output_schema!r:.80}")


def properties_of(schema: dict[str, Any]) -> list[str]:
    """Return the names of an object's fields; none if the schema is not that of an object."""
    return [name for form in _forms(schema, schema) for name in form.get("properties", {})]


def kind_at(schema: dict[str, Any], path: Sequence[str]) -> Kind | None:
    """
    Return the kind of the values at a path; None if the schema leaves it open.

    :raises LookupError: if the schema has no such path; the argument is the part that it does not have.
    """
    forms = _forms(schema, schema)
    for step in path:
        children = [child for form in forms if (child := _child(form, step)) is not None]
        if not children:
            if any(form.get("type") in {None, "object", "array"} and _is_open(form) for form in forms):
                return None
            raise LookupError(step)
        forms = [found for child in children for found in _forms(child, schema)]
    return _common(kind for form in forms for kind in _kinds(form))


def _is_open(form: dict[str, Any]) -> bool:
    """Whether values may have fields that the schema does not name."""
    return "properties" not in form or form.get("additionalProperties", False) is not False


def _child(form: dict[str, Any], step: str) -> Any:
    if step in form.get("properties", {}):
        return form["properties"][step]
    if step.isdecimal():
        prefix = form.get("prefixItems", [])
        return prefix[int(step)] if int(step) < len(prefix) else form.get("items") or None
    extra = form.get("additionalProperties")
    return extra if isinstance(extra, dict) else None


def _forms(schema: Any, root: dict[str, Any], depth: int = 0) -> list[dict[str, Any]]:
    """Return what a schema may stand for, with its references followed and without null."""
    if not isinstance(schema, dict) or depth > 20:  # noqa: PLR2004 - a schema that refers to itself
        return []
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        target: Any = root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else []:
            target = target.get(step, {}) if isinstance(target, dict) else {}
        return _forms(target, root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return [form for part in schema[word] for form in _forms(part, root, depth + 1)]
    return [] if schema.get("type") == "null" else [schema]


def _kinds(form: dict[str, Any]) -> list[Kind]:
    given = form.get("type")
    if given is None:
        values = form.get("enum", [form["const"]] if "const" in form else [])
        return [kind for value in values if (kind := kind_of(value)) is not None]
    names = [name for name in (given if isinstance(given, list) else [given]) if name != "null"]
    kinds = [_JSON_TYPES[name] for name in names if name in _JSON_TYPES]
    return [_FORMATS.get(form.get("format", ""), kind) if kind == "text" else kind for kind in kinds]


def kind_of(value: Any) -> Kind | None:
    """Return the kind of a value from JSON; None for null."""
    if value is None:
        return None
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -MAX_INTEGER <= value <= MAX_INTEGER else "number"
    return "number" if isinstance(value, float) else "json"


def common_kind(kinds: Iterable[Kind]) -> Kind:
    """Return the kind of a column for all these kinds of values; values of several kinds become text."""
    return _common(kinds) or "text"


def _common(kinds: Iterable[Kind]) -> Kind | None:
    found = set(kinds)
    if found == {"integer", "number"}:
        return "number"
    if found == {"date", "timestamp"}:
        return "timestamp"
    if len(found) > 1:
        return "text"
    return found.pop() if found else None


class Bounds(msgspec.Struct, frozen=True):
    """
    What a column can hold.

    :param low: the least integer, and ``high`` the greatest.
    :param length: how many characters; None: any number.
    """

    low: int = -MAX_INTEGER - 1
    high: int = MAX_INTEGER
    length: int | None = None


def converter(kind: Kind, bounds: Bounds, *, has_booleans: bool = True, has_zones: bool = True) -> Convert:
    """
    Return a function that makes the value of a column; it raises a ``ValueError`` for one that does not fit.

    :param has_booleans: False: true and false become 1 and 0.
    :param has_zones: False: times are given in UTC, without a zone.
    """
    if kind == "integer":
        return _integers(bounds)
    if kind == "boolean":
        return _boolean if has_booleans else lambda value: int(_boolean(value))
    if kind == "timestamp":
        return lambda value: _timestamp(value, has_zones=has_zones)
    plain: dict[Kind, Convert] = {"number": _number, "json": json_text, "date": _date, "other": _scalar}
    return plain.get(kind) or _texts(bounds.length)


def text_of(value: Any) -> str:
    """Return text as it is, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _texts(length: int | None) -> Convert:
    def text(value: Any) -> str:
        text = value if type(value) is str else text_of(value)
        if "\0" in text:
            raise ValueError("it has a character NUL, which the database cannot store")
        if length is not None and len(text) > length:
            raise ValueError(f"it has {len(text):,} characters, and the column takes {length:,}")
        return text

    return text


def _scalar(value: Any) -> Any:
    if isinstance(value, list | dict):
        raise ValueError("it is a list or an object")  # noqa: TRY004 - as every value that does not fit
    return _texts(None)(value)


def _integers(bounds: Bounds) -> Convert:
    def integer(value: Any) -> int:
        is_text = isinstance(value, str) and _INTEGER.fullmatch(value.strip())
        if is_text or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if not isinstance(value, int):
            raise ValueError("it is no integer")  # noqa: TRY004 - as every value that does not fit
        if not bounds.low <= value <= bounds.high:
            raise ValueError(f"the column takes {bounds.low} to {bounds.high}")
        return int(value)

    return integer


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("it is no number")
    return value


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower() if isinstance(value, str | bool | int) else ""
    if word not in _TRUE | _FALSE:
        raise ValueError("it is neither true nor false")
    return word in _TRUE


def json_text(value: Any) -> str:
    """Return JSON; text that holds an object or a list already, as that of Parquet does, stays as it is."""
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
        else:
            return value
    return msgspec.json.encode(value).decode()


def _date(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it is no date")  # noqa: TRY004 - as every value that does not fit
    return date.fromisoformat(value.strip()).isoformat()


def _timestamp(value: Any, *, has_zones: bool) -> str:
    if not isinstance(value, str):
        raise ValueError("it is no time")  # noqa: TRY004 - as every value that does not fit
    found = datetime.fromisoformat(value.strip())
    if has_zones:
        return found.isoformat(" ")
    return (found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found).isoformat(" ")
