"""A request to an endpoint itself, which is what a batch makes of each of its lines."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from airflow_provider_openai_batches.api.protocol import HttpRequest
from airflow_provider_openai_batches.api.validation import check_endpoint, check_id

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.config import ClientConfig

# A model may think for minutes before the first byte of its answer.
LIVE_SECONDS = 600.0


class _WithModel(msgspec.Struct):
    model: str = ""


def ask(endpoint: str, body: bytes, config: ClientConfig) -> HttpRequest:
    """
    ``POST`` a request to its endpoint.

    https://developers.openai.com/api/reference/resources/chat/subresources/completions/methods/create

    :param endpoint: as in a line's ``url``; what precedes it is the connection's base URL.
    :param body: the line's body, as JSON.
    """
    path = check_endpoint(endpoint).removeprefix("/v1")
    if config.base_url.endswith("/openai") and "api-key" in config.headers and path != "/responses":
        # Azure's older addresses, which go with an api-version, have the deployment in the path.
        model = msgspec.json.decode(body, type=_WithModel).model
        path = f"/deployments/{quote(check_id(model, 'model'), safe='')}{path}"
    return HttpRequest(operation="live", method="POST", path=path, json=body, seconds=LIVE_SECONDS)
