"""What the tests that talk to a dev server share."""

from __future__ import annotations

import json
import time

ENDPOINT = "/v1/chat/completions"


def request_lines(count: int = 3) -> bytes:
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
    lines = [{"custom_id": str(n), "method": "POST", "url": ENDPOINT, "body": body} for n in range(count)]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def short_sleep(seconds: float) -> None:
    """A fiftieth of the real wait."""
    time.sleep(seconds / 50)
