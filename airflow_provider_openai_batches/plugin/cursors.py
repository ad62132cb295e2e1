"""
Cursors: where the next page of a connection's list begins.

They are signed, so that the service is not asked for pages after anything that a viewer invents.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from airflow.api_fastapi.auth.tokens import get_signing_key
from airflow.providers.common.compat.sdk import conf


def cursor_after(conn_id: str, batch_id: str) -> str:
    """Return the cursor of the page after this batch."""
    return f"{batch_id}.{_signature(conn_id, batch_id)}"


def batch_before(conn_id: str, cursor: str) -> str | None:
    """Return the batch after which the page begins; None for a cursor that no page of the connection had."""
    batch_id, _, signature = cursor.rpartition(".")
    right = _signature(conn_id, batch_id)
    return batch_id if hmac.compare_digest(signature.encode(), right.encode()) else None


def _signature(conn_id: str, batch_id: str) -> str:
    message = json.dumps(["openai_batches cursor", conn_id, batch_id]).encode()
    return hmac.new(_secret(), message, hashlib.sha256).hexdigest()[:32]


def _secret() -> bytes:
    """A secret that all API servers of this Airflow share."""
    # Sessions are signed with the first, unless a private key signs them; then it may differ between servers.
    has_private_key = conf.get("api_auth", "jwt_private_key_path", fallback="")
    option = ("api", "secret_key") if has_private_key else ("api_auth", "jwt_secret")
    return hashlib.sha256(get_signing_key(*option).encode()).digest()
