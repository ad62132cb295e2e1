"""
Structured output: the schema goes to the service, and the answers are checked against it.

https://developers.openai.com/api/docs/guides/structured-outputs
"""

from __future__ import annotations

import importlib
import re
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.endpoints import SPECS
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.output_types import output_type
from airflow_provider_openai_batches.inference.data.strict_schema import strict_form
from airflow_provider_openai_batches.inference.data.tolerant import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.api.endpoints import EndpointSpec
    from airflow_provider_openai_batches.inference.data.output_types import OutputType

_MAX_NAME = 64
_MAX_ERROR = 500
_ODD = re.compile(r"\ufeff|\\u[dD]")  # a surrogate may be a lone one, which pydantic does not read
_NO_NUMBER = re.compile("NaN|Infinity")  # a model may be configured to write them, but they are not JSON


class OutputSchema:
    """
    A JSON schema (a dict) or a pydantic model; it is sent in the form of strict mode.

    :param schema: the dict or the class.
    :param strict: whether the service holds the model to the schema; if not, it is sent as it is, and only
        the answers are checked.
    :param name: what the schema is called at the service; default: the class's name or the schema's title.
    :raises InvalidInputError: if it is neither, is not a valid JSON schema, or has no strict form.
    """

    def __init__(self, schema: Any, name: str | None = None, *, strict: bool = True) -> None:
        is_model = isinstance(schema, type) and hasattr(schema, "model_json_schema")
        if is_model:
            self.schema, self._read = schema.model_json_schema(), _model_reader(schema)
            title = schema.__name__
        elif isinstance(schema, dict):
            self.schema, self._read = schema, _schema_reader(schema)
            title = schema.get("title", "")
        else:
            raise InvalidInputError(f"output_schema must be a dict or a pydantic model, not {schema!r:.80}")
        self.name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(name or title or "output"))[:_MAX_NAME]
        if strict:
            where = title if is_model else "output_schema"
            self.schema = strict_form(self.schema, where, is_model=is_model)
        form = {"name": self.name, "schema": self.schema, "strict": strict}
        self._given = schema
        # Encoded once, not with each row.
        self._forms = {
            path: _encoded(spec.schema_form(form)) for path, spec in SPECS.items() if spec.schema_path
        }

    @cached_property
    def output_type(self) -> OutputType:
        """
        The type of a valid output in columns.

        :raises InvalidInputError: if pydantic has no schema for what the model writes.
        """
        if isinstance(self._given, dict):
            return output_type(self._given)
        try:
            return output_type(self._given.model_json_schema(mode="serialization"))
        except ValueError as error:
            raise InvalidInputError(f"output_schema has no types for columns: {error}") from error

    def check_endpoint(self, spec: EndpointSpec) -> None:
        """
        Make sure that the endpoint takes a schema.

        :raises InvalidInputError: if it does not.
        """
        if spec.path not in self._forms:
            raise InvalidInputError(f"{spec.path} takes no output_schema; {' and '.join(self._forms)} do")

    def apply(self, body: dict[str, Any], spec: EndpointSpec) -> dict[str, Any]:
        """
        Return the body with the schema in the endpoint's own form.

        :raises InvalidInputError: if the body asks for another form already.
        """
        return spec.with_schema(body, self._forms[spec.path])

    def check(self, text: str) -> tuple[Any, str | None]:
        """Return the value (for a model, as JSON) and None; or None and what is wrong with the text."""
        try:
            return self._read(text), None
        except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything
            return None, _in_words(error)


def _in_words(error: Exception) -> str:
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - and so may its message
        said = ""
    own = isinstance(error, (ValueError, msgspec.MsgspecError)) and said
    return (said if own else f"{type(error).__name__}: {said}".rstrip(": "))[:_MAX_ERROR]


def _encoded(form: dict[str, Any]) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.json.encode(form))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInputError(f"output_schema is not JSON: {error}") from error


def _model_reader(model: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if _ODD.search(text):
            text = _plain(text)
        found: str = model.model_validate_json(text).model_dump_json(by_alias=True)
        return msgspec.Raw((_plain(found) if _NO_NUMBER.search(found) else found).encode())

    return read


def _plain(text: str) -> str:
    return msgspec.json.encode(read_json(text)).decode()


def _schema_reader(schema: dict[str, Any]) -> Callable[[str], Any]:
    # Imported here: only jobs with a schema pay for it.
    exceptions, validators, formats, referencing = (
        importlib.import_module(name)
        for name in ("jsonschema.exceptions", "jsonschema.validators", "jsonschema", "referencing")
    )
    patterns = formats.FormatChecker(())
    patterns.checks("regex", (re.error, OverflowError, RecursionError))(_is_pattern)
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    kind = validators.extend(kind, {"multipleOf": _multiple_of(exceptions.ValidationError)})
    try:
        kind.check_schema(schema, patterns)
    except exceptions.SchemaError as error:
        where = error.json_path.replace("$", "output_schema", 1)
        if error.validator == "format":
            said = f"{error.instance!r:.100}, which is no regular expression for Python's re ({error.cause})"
        else:
            said = f"not a valid JSON schema: {error.message:.300}"
        raise InvalidInputError(f"{where} is {said}") from error
    _check_references(schema, referencing)
    validator = kind(schema, registry=referencing.Registry())  # its own registry never uses the network

    def read(text: str) -> Any:
        value = read_json(text)
        error = exceptions.best_match(validator.iter_errors(value))
        if error is not None:
            raise ValueError(f"{error.json_path}: {error.message}")
        return value

    return read


def _is_pattern(text: object) -> bool:
    return not isinstance(text, str) or bool(re.compile(text))


def _multiple_of(error_class: Callable[[str], Exception]) -> Callable[..., Iterator[Exception]]:
    """Return a check that takes numbers as they are written: 19.99 is a multiple of 0.01, its float not."""

    def check(_validator: Any, divisor: Any, value: Any, _schema: Any) -> Iterator[Exception]:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and (Fraction(str(value)) / Fraction(str(divisor))).denominator != 1:
            yield error_class(f"{value!r} is not a multiple of {divisor}")

    return check


def _check_references(schema: dict[str, Any], referencing: Any) -> None:
    """Find unresolvable references now, rather than at the first answer."""
    specification = importlib.import_module("referencing.jsonschema").DRAFT202012
    resource = referencing.Resource.from_contents(schema, default_specification=specification)
    base = resource.id() or ""
    resolver = referencing.Registry().with_resource(base, resource).resolver(base_uri=base)
    for node in _nodes(schema):
        reference = node.get("$ref")
        if isinstance(reference, str):
            try:
                resolver.lookup(reference)
            except referencing.exceptions.Unresolvable as error:
                raise InvalidInputError(f"output_schema: the $ref {reference!r} does not resolve") from error


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _nodes(child)
