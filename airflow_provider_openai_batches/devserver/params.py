"""The parameters of each call, checked as the service checks them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.endpoints import ENDPOINTS
from airflow_provider_openai_batches.devserver.errors import NOT_JSON, ApiError, invalid
from airflow_provider_openai_batches.devserver.limits import (
    DEFAULT_EXPIRY_SECONDS,
    MAX_EXPIRY_SECONDS,
    MAX_METADATA_KEY,
    MAX_METADATA_PAIRS,
    MAX_METADATA_VALUE,
    MIN_EXPIRY_SECONDS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MAX_DIGITS = 9
REQUIRED = ("input_file_id", "endpoint", "completion_window")
OPTIONAL = ("metadata", "output_expires_after")


def read_create(body: bytes) -> dict[str, Any]:
    """
    The parameters of ``POST /batches``.

    :raises ApiError: 400, naming the parameter.
    """
    try:
        params = msgspec.json.decode(body)
    except NOT_JSON:
        raise ApiError(HTTPStatus.BAD_REQUEST, "The body of the request is not valid JSON.") from None
    if not isinstance(params, dict):
        raise ApiError(HTTPStatus.BAD_REQUEST, "The body of the request must be a JSON object.")
    _check_names(params)
    if params["endpoint"] not in ENDPOINTS:
        allowed = ", ".join(f"'{endpoint}'" for endpoint in ENDPOINTS)
        raise invalid("endpoint", f"Invalid value: '{params['endpoint']}'. Supported values are: {allowed}.")
    if params["completion_window"] != "24h":
        raise invalid("completion_window", f"Invalid value: '{params['completion_window']}'. Use '24h'.")
    _check_metadata(params.get("metadata"))
    if (expiry := params.get("output_expires_after")) is not None:
        if not isinstance(expiry, dict):
            text = "Expected an object with anchor and seconds."
            raise invalid("output_expires_after", text, "invalid_type")
        params["output_expires_after"] = read_expiry("output_expires_after", expiry)
    return params


def _check_names(params: dict[str, Any]) -> None:
    for name in params.keys() - {*REQUIRED, *OPTIONAL}:
        raise invalid(name, f"Unknown parameter: '{name}'.", "unknown_parameter")
    for name in REQUIRED:
        if params.get(name) is None:
            raise invalid(name, f"Missing required parameter: '{name}'.", "missing_required_parameter")
        if not isinstance(params[name], str):
            raise invalid(name, f"Invalid type for '{name}': expected a string.", "invalid_type")


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise invalid("metadata", "Invalid type for 'metadata': expected an object.", "invalid_type")
    if len(metadata) > MAX_METADATA_PAIRS:
        text = f"Invalid 'metadata': expected at most {MAX_METADATA_PAIRS} properties, got {len(metadata)}."
        raise invalid("metadata", text, "object_above_max_properties")
    for key, value in metadata.items():
        name = f"metadata.{key}"
        if len(key) > MAX_METADATA_KEY:
            text = f"Invalid 'metadata': a key is over {MAX_METADATA_KEY} characters."
            raise invalid("metadata", text, "string_above_max_length")
        if not isinstance(value, str):
            raise invalid(name, f"Invalid type for '{name}': expected a string.", "invalid_type")
        if len(value) > MAX_METADATA_VALUE:
            text = f"Invalid '{name}': string too long, expected at most {MAX_METADATA_VALUE} characters."
            raise invalid(name, text, "string_above_max_length")


def read_upload(filename: str | None, fields: Mapping[str, str]) -> tuple[str, str, int | None]:
    """
    The parameters of ``POST /files``.

    :returns: the file's name and purpose, and after how many seconds it expires, if it does.
    :raises ApiError: 400, naming the parameter.
    """
    if filename is None:
        raise invalid("file", "Missing required parameter: 'file'.", "missing_required_parameter")
    purpose = fields.get("purpose")
    if purpose is None:
        raise invalid("purpose", "Missing required parameter: 'purpose'.", "missing_required_parameter")
    if purpose not in PURPOSES:
        raise invalid("purpose", f"'{purpose}' is not one of {list(PURPOSES)}.")
    prefix = "expires_after["
    policy = {
        name.removeprefix(prefix).removesuffix("]"): text
        for name, text in fields.items()
        if name.startswith(prefix)
    }
    if "expires_after" in fields:  # some clients send the object as one part
        policy = _json_object("expires_after", fields["expires_after"])
        return filename, purpose, read_expiry("expires_after", policy)
    if policy:
        return filename, purpose, read_expiry("expires_after", policy)
    return filename, purpose, DEFAULT_EXPIRY_SECONDS if purpose == "batch" else None


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except NOT_JSON:
        raise invalid(name, f"Invalid type for '{name}': expected an object.", "invalid_type") from None


def read_expiry(name: str, policy: Mapping[str, Any]) -> int:
    """The seconds of an expiration policy."""
    if policy.get("anchor") != "created_at":
        raise invalid(f"{name}.anchor", f"Invalid '{name}.anchor': the only anchor is 'created_at'.")
    seconds = policy.get("seconds")
    if isinstance(seconds, str):  # the fields of a multipart form are text
        seconds = _number(seconds)
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int)
        or not MIN_EXPIRY_SECONDS <= seconds <= MAX_EXPIRY_SECONDS
    ):
        expected = f"expected an integer from {MIN_EXPIRY_SECONDS} to {MAX_EXPIRY_SECONDS}"
        raise invalid(f"{name}.seconds", f"Invalid '{name}.seconds': {expected}.")
    return seconds


def read_limit(query: Mapping[str, str], default: int, maximum: int) -> int:
    limit = _number(query.get("limit", str(default)))
    if limit is None or not 1 <= limit <= maximum:
        raise invalid("limit", f"Invalid 'limit': expected an integer from 1 to {maximum}.")
    return limit


def _number(text: str) -> int | None:
    """Return the number that is written in a few plain digits; None for anything else."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    return int(text) if is_number else None


def read_order(query: Mapping[str, str]) -> bool:
    """Whether the newest comes first."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order", "Invalid 'order': expected 'asc' or 'desc'.")
    return order == "desc"
