"""
How much of a limit of requests a minute the live call uses, on the dev server.

Run ``python benchmarks/live_rate.py [ROWS [LIMIT [SECONDS]]]``: so many rows (1,500), a limit (500) for each
"minute", which lasts so many seconds (6), so that three minutes are 18 seconds. The ideal run has used up the
first bucket at once, and then takes as long as the limit takes to let the others pass.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.devserver import DevServer
from airflow_provider_openai_batches.inference import live

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINT = "/v1/chat/completions"
LOG = logging.getLogger("live_rate")


def lines(count: int) -> Iterator[bytes]:
    for number in range(count):
        body = {"model": "m", "messages": [{"role": "user", "content": f"Is order {number} late?"}]}
        line = {"custom_id": f"row-{number}", "method": "POST", "url": ENDPOINT, "body": body}
        yield json.dumps(line).encode() + b"\n"


async def _ask(base_url: str, count: int) -> live.Tally:
    headers = {"Authorization": "Bearer key"}
    config = ClientConfig(base_url=base_url, api_key="key", headers=headers)
    client = AsyncBatchesClient(config, connections=live.MAX_UNDER_WAY)
    written = []

    async def sink(line: bytes) -> None:
        written.append(json.loads(line)["custom_id"])

    try:
        tally = await live.ask(client, ENDPOINT, lines(count), sink, log=LOG, total=count)
    finally:
        await client.aclose()
    assert len(set(written)) == len(written) == count
    return tally


def measure(count: int, limit: int, minute: float, **settings: Any) -> dict[str, float]:
    """
    Ask ``count`` rows under a limit.

    :param minute: how many seconds a minute of the limit lasts.
    :param settings: of the dev server, such as ``live_seconds``.
    :returns: ``used``, the share of what the limit allows; seconds; and how many requests were answered 429.
    """
    with DevServer(requests_per_minute=limit, minute_seconds=minute, **settings) as server:
        begun = time.monotonic()
        tally = asyncio.run(_ask(server.base_url, count))
        seconds = time.monotonic() - begun
        twice = server.stats()["live"]["paid_more_than_once"]
    ideal = max(0, count - limit) * minute / limit
    return {
        "used": ideal / seconds,
        "seconds": seconds,
        "rate_limited": tally.rate_limited,
        "succeeded": tally.succeeded,
        "twice": twice,
    }


def main(arguments: list[str]) -> None:
    count, limit, minute = (*map(int, arguments), *(1_500, 500, 6)[len(arguments) :])
    print(f"{'':34} {'of the limit':>12} {'seconds':>8} {'429':>5} {'answered':>9} {'twice':>6}")
    for name, settings in {
        "answers in 0.05 s": {"live_seconds": 0.05},
        "answers in 0.5 s": {"live_seconds": 0.5},
        "no headers but Retry-After": {"live_seconds": 0.05, "rate_limit_headers": False},
        "a tenth fails in passing": {"live_seconds": 0.05, "live_failing": 0.1},
    }.items():
        found = measure(count, limit, minute, **settings)
        print(
            f"{name:34} {found['used']:>12.2f} {found['seconds']:>8.1f} {found['rate_limited']:>5.0f} "
            f"{found['succeeded']:>9,.0f} {found['twice']:>6.0f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
