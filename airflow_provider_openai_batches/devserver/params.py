"""The parameters of each call, checked as the service checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.devserver.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDPOINTS = (
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
CREATE_PARAMS = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
MIN_EXPIRY, MAX_EXPIRY = 3_600, 2_592_000
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512


def invalid(param: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def read_create(body: bytes) -> dict[str, Any]:
    """
    The parameters of ``POST /batches``.

    :raises ApiError: 400, naming the parameter.
    """
    try:
        params = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise ApiError(400, "The body of the request is not valid JSON.") from None
    if not isinstance(params, dict):
        raise ApiError(400, "The body of the request must be a JSON object.")
    _check_names(params)
    if params["endpoint"] not in ENDPOINTS:
        allowed = ", ".join(f"'{endpoint}'" for endpoint in ENDPOINTS)
        raise invalid("endpoint", f"Invalid value: '{params['endpoint']}'. Supported values are: {allowed}.")
    if params["completion_window"] != "24h":
        raise invalid("completion_window", f"Invalid value: '{params['completion_window']}'. Use '24h'.")
    _check_metadata(params.get("metadata"))
    if (expiry := params.get("output_expires_after")) is not None:
        if not isinstance(expiry, dict):
            raise invalid(
                "output_expires_after", "Expected an object with anchor and seconds.", "invalid_type"
            )
        params["output_expires_after"] = read_expiry("output_expires_after", expiry)
    return params


def _check_names(params: dict[str, Any]) -> None:
    for name in params.keys() - CREATE_PARAMS:
        raise invalid(name, f"Unknown parameter: '{name}'.", "unknown_parameter")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if params.get(name) is None:
            raise invalid(name, f"Missing required parameter: '{name}'.", "missing_required_parameter")
        if not isinstance(params[name], str):
            raise invalid(name, f"Invalid type for '{name}': expected a string.", "invalid_type")


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise invalid("metadata", "Invalid type for 'metadata': expected an object.", "invalid_type")
    if len(metadata) > MAX_METADATA:
        text = (
            f"Invalid 'metadata': too many properties, expected at most {MAX_METADATA}, got {len(metadata)}."
        )
        raise invalid("metadata", text, "object_above_max_properties")
    for key, value in metadata.items():
        if len(key) > MAX_KEY:
            raise invalid(
                "metadata",
                f"Invalid 'metadata': a key is over {MAX_KEY} characters.",
                "string_above_max_length",
            )
        if not isinstance(value, str):
            raise invalid(
                f"metadata.{key}", f"Invalid type for 'metadata.{key}': expected a string.", "invalid_type"
            )
        if len(value) > MAX_VALUE:
            text = f"Invalid 'metadata.{key}': string too long, expected at most {MAX_VALUE} characters."
            raise invalid(f"metadata.{key}", text, "string_above_max_length")


def read_expiry(name: str, expiry: Mapping[str, Any]) -> int:
    """The seconds of an expiration policy."""
    if expiry.get("anchor") != "created_at":
        raise invalid(f"{name}.anchor", f"Invalid '{name}.anchor': the only anchor is 'created_at'.")
    seconds = expiry.get("seconds")
    if isinstance(seconds, str) and seconds.isdecimal():  # a multipart field is text
        seconds = int(seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not MIN_EXPIRY <= seconds <= MAX_EXPIRY:
        text = f"Invalid '{name}.seconds': expected an integer from {MIN_EXPIRY} to {MAX_EXPIRY}."
        raise invalid(f"{name}.seconds", text)
    return seconds


def read_limit(query: Mapping[str, str], default: int, maximum: int) -> int:
    text = query.get("limit", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise invalid("limit", f"Invalid 'limit': expected an integer from 1 to {maximum}.")
    return int(text)


def read_order(query: Mapping[str, str]) -> bool:
    """Whether the newest comes first."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order", "Invalid 'order': expected 'asc' or 'desc'.")
    return order == "desc"
