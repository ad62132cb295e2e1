"""
What is refused before anything is sent. Strict, because the service answers late or not at all.

Limits: https://developers.openai.com/api/reference/resources/batches/methods/create
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_openai_batches.exceptions import InvalidInputError

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MIN_EXPIRY = 3_600
MAX_EXPIRY = 2_592_000
MAX_PAGE = 100


def check_id(value: object, field: str) -> str:
    """Refuse an id that is empty, or that would lead to another path."""
    if not isinstance(value, str) or not value.strip() or value in {"None", "null"}:
        raise InvalidInputError(
            f"{field} is {value!r}; it must be an id such as 'batch_abc123'. "
            "If it comes from another task's XCom, check that this task returned one."
        )
    if value in {".", ".."} or not value.isprintable() or any(sign in value for sign in "/\\ "):
        raise InvalidInputError(f"{field} is {value!r}; an id has no slash, space or control character.")
    return value


def check_endpoint(endpoint: object) -> str:
    """Refuse what is not a path like ``/v1/responses``; unknown ones pass, compatible servers have more."""
    if (
        not isinstance(endpoint, str)
        or not re.fullmatch(r"/v1(/[A-Za-z0-9_.-]+)+", endpoint)
        or "/." in endpoint
    ):
        raise InvalidInputError(
            f"endpoint is {endpoint!r}; it must be a path such as '/v1/responses', '/v1/chat/completions' "
            "or '/v1/embeddings'."
        )
    return endpoint


def check_interval(value: object, field: str) -> float:
    """Refuse an interval that is not a positive number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidInputError(f"{field} is {value!r}; it must be a number of seconds above 0.")
    return float(value)


def check_text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{field} is {value!r}; it must be a text such as '24h'.")
    return value


def check_limit(limit: object) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError(f"limit is {limit!r}; it must be a whole number from 1 to {MAX_PAGE}.")
    return limit


def check_metadata(metadata: object) -> dict[str, str]:
    """Refuse metadata beyond the service's limits: 16 pairs, keys of 64 and values of 512 characters."""
    if not hasattr(metadata, "items"):
        raise InvalidInputError(f"metadata is a {type(metadata).__name__}; it must be a dict of texts.")
    pairs = dict(metadata.items())
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidInputError(
            f"metadata has {len(pairs)} pairs with those that this provider adds "
            f"({', '.join(pairs)}); the service takes {MAX_METADATA_PAIRS}. Leave some out."
        )
    for key, value in pairs.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInputError(f"metadata[{key!r}] is {value!r}; keys and values must be texts.")
        if not key or len(key) > MAX_METADATA_KEY:
            raise InvalidInputError(
                f"metadata key {key!r} has {len(key)} characters; the service takes 1 to {MAX_METADATA_KEY}."
            )
        if len(value) > MAX_METADATA_VALUE:
            raise InvalidInputError(
                f"metadata[{key!r}] has {len(value)} characters; the service takes {MAX_METADATA_VALUE}."
            )
    return pairs


def check_expiry(value: object, field: str) -> dict[str, Any]:
    """Seconds, or the service's own ``{"anchor": "created_at", "seconds": …}``."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"anchor": "created_at", "seconds": value}
    if not isinstance(value, dict) or set(value) != {"anchor", "seconds"} or value["anchor"] != "created_at":
        raise InvalidInputError(
            f"{field} is {value!r}; give seconds, or {{'anchor': 'created_at', 'seconds': …}}."
        )
    seconds = value["seconds"]
    if not isinstance(seconds, int) or not MIN_EXPIRY <= seconds <= MAX_EXPIRY:
        raise InvalidInputError(
            f"{field} is {seconds!r} seconds; the service takes "
            f"{MIN_EXPIRY} (an hour) to {MAX_EXPIRY} (30 days)."
        )
    return dict(value)
