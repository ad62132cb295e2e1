"""
How much of what a limit allows the live call uses, over sockets; the dev server has a process of its own.

Run ``python benchmarks/live_rate.py [ROWS [LIMIT [SECONDS]]]``: so many rows (5,000) under a limit (1,000)
for each "minute", which lasts so many seconds (6): that is 10,000 requests in a real one. The ideal run has
used up the first bucket at once, and then takes as long as the limit takes to let the others pass. The last
cases have fewer rows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
from environments import dev_server

from airflow_provider_openai_batches.api.async_client import AsyncBatchesClient
from airflow_provider_openai_batches.api.config import ClientConfig
from airflow_provider_openai_batches.devserver import DevServerClient
from airflow_provider_openai_batches.devserver.input_lines import estimated_tokens
from airflow_provider_openai_batches.inference import live

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.live_tally import Tally

ENDPOINT = "/v1/chat/completions"
LOG = logging.getLogger("live_rate")
# A run that takes so many times as long as the ideal one, and so many seconds more, is given up.
MOST_TIMES, MOST_SECONDS_MORE = 1.5, 15.0


def bodies(count: int) -> Iterator[dict[str, Any]]:
    """Prompts of up to 70 words."""
    for number in range(count):
        text = f"Is order {number} late?" + " Please look." * (number % 30)
        yield {"model": "m", "messages": [{"role": "user", "content": text}]}


def lines(count: int) -> Iterator[bytes]:
    for number, body in enumerate(bodies(count)):
        line = {"custom_id": f"row-{number}", "method": "POST", "url": ENDPOINT, "body": body}
        yield json.dumps(line).encode() + b"\n"


def tokens_of(count: int) -> int:
    """How many tokens the dev server counts in so many rows."""
    return sum(estimated_tokens(msgspec.Raw(json.dumps(body).encode())) for body in bodies(count))


async def _ask(base_url: str, count: int, stop_after: float) -> Tally:
    headers = {"Authorization": "Bearer key"}
    config = ClientConfig(base_url=base_url, api_key="key", headers=headers)
    client = AsyncBatchesClient(config, connections=live.MAX_UNDER_WAY)
    until = time.monotonic() + stop_after
    written = []

    async def sink(line: bytes) -> None:
        written.append(json.loads(line)["custom_id"])

    try:
        tally = await live.ask(
            client,
            ENDPOINT,
            lines(count),
            sink,
            log=LOG,
            total=count,
            stop=lambda: time.monotonic() > until,
        )
    finally:
        await client.aclose()
    assert len(set(written)) == len(written) == tally.rows
    return tally


def measure(
    count: int, limit: int, minute: float, kind: str = "requests", **settings: Any
) -> dict[str, float]:
    """
    Ask ``count`` rows under a limit.

    :param limit: how many average rows it lets pass in a minute.
    :param minute: how many seconds a minute of the limit lasts.
    :param kind: what is limited, ``requests`` or ``tokens``.
    :param settings: of the dev server, such as ``live_seconds``.
    :returns: ``used``, the share of what the limit allows; seconds; this process's
        milliseconds of CPU for each request; how many requests were answered 429; and how many rows were
        answered, and more than once.
    """
    each_minute = limit * tokens_of(count) // count if kind == "tokens" else limit
    ideal = max(0, count - limit) * minute / limit
    settings |= {f"{kind}_per_minute": each_minute, "minute_seconds": minute}
    options = [text for name, value in settings.items() for text in ("--set", f"{name}={json.dumps(value)}")]
    with dev_server(*options) as url, DevServerClient(url) as server:
        begun, cpu = time.monotonic(), time.process_time()
        tally = asyncio.run(_ask(url, count, ideal * MOST_TIMES + MOST_SECONDS_MORE))
        seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
        twice = server.stats()["live"]["paid_more_than_once"]
    let_pass = tally.requests - tally.rate_limited  # more than the rows, if some were asked again
    return {
        "used": max(0, let_pass - limit) * minute / limit / seconds,
        "seconds": seconds,
        "cpu_ms": cpu * 1_000 / tally.requests,
        "rate_limited": tally.rate_limited,
        "succeeded": tally.succeeded,
        "twice": twice,
    }


def main(arguments: list[str]) -> None:
    count, limit, minute = (*map(int, arguments), *(5_000, 1_000, 6)[len(arguments) :])
    some = count * 2 // 5
    print(f"{'':34} {'rows':>6} {'of the limit':>12} {'seconds':>8} {'CPU ms':>7} {'429':>5} {'twice':>6}")
    cases: dict[str, tuple[int, dict[str, Any]]] = {
        "requests a minute": (count, {"live_seconds": 0.5}),
        "tokens a minute": (count, {"live_seconds": 0.5, "kind": "tokens"}),
        "answers in 0.05 s": (some, {"live_seconds": 0.05}),
        "no headers but Retry-After": (some, {"live_seconds": 0.5, "rate_limit_headers": False}),
        "a tenth fails in passing": (some, {"live_seconds": 0.5, "live_failing": 0.1}),
    }
    for name, (rows, settings) in cases.items():
        share = 1 if rows == count else 2
        found = measure(rows, limit // share, minute / share, **settings)
        print(
            f"{name:34} {found['succeeded']:>6,.0f} {found['used']:>12.2f} {found['seconds']:>8.1f} "
            f"{found['cpu_ms']:>7.2f} {found['rate_limited']:>5.0f} {found['twice']:>6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
