"""
One side of the waits benchmark, in a process and an environment of its own.

It runs the provider's trigger class as a triggerer does, many at once on one event loop, and prints what that
took in lines of JSON. A line on its standard input says that the server has seen a request for each wait.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from side import quiet_logs, report

MODULES = {
    "ours": ("airflow_provider_openai_batches.triggers.openai_batches", "OpenAIBatchTrigger"),
    "official": ("airflow.providers.openai.triggers.openai", "OpenAIBatchTrigger"),
    "common_ai": ("airflow.providers.common.ai.triggers.llm_batch", "LLMBatchTrigger"),
}
CONNECTIONS = {"ours": "openai_batches", "official": "openai", "common_ai": "pydanticai"}
CONN_ID = "bench"
PROBE_EVERY = 0.01
# A triggerer claims a portion of its triggers in each turn of its loop.
PORTION_EVERY = 1.0
DAY = 86_400.0


def arguments(side: str, batch_id: str, poll_interval: float) -> dict[str, Any]:
    end_time = time.time() + DAY
    if side == "ours":
        return {"openai_conn_id": CONN_ID, "batch_ids": [batch_id], "poll_interval": poll_interval}
    if side == "official":
        return {
            "conn_id": CONN_ID,
            "batch_id": batch_id,
            "poll_interval": poll_interval,
            "end_time": end_time,
        }
    return {
        "llm_conn_id": CONN_ID,
        "adapter": "openai",
        "batch_id": batch_id,
        "poll_interval": poll_interval,
        "end_time": end_time,
        "cancel_on_kill": True,
        "cancel_on_timeout": True,
    }


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class Measured:
    """What the process has used since before the first trigger."""

    def __init__(self) -> None:
        gc.collect()
        self.memory = resident_mb()
        self.cpu = time.process_time()
        self.begun = time.monotonic()
        self.lag = 0.0

    async def probe(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(PROBE_EVERY)
            self.lag = max(self.lag, time.monotonic() - before - PROBE_EVERY)

    def so_far(self) -> dict[str, float]:
        return {
            "seconds": time.monotonic() - self.begun,
            "cpu": time.process_time() - self.cpu,
            "memory": resident_mb() - self.memory,
            "lag": self.lag,
        }


def import_trigger(side: str) -> tuple[Any, float]:
    """The trigger class, and the seconds that importing its module takes once Airflow is imported."""
    importlib.import_module("airflow.sdk")
    importlib.import_module("airflow.triggers.base")
    module, name = MODULES[side]
    begun = time.perf_counter()
    imported = importlib.import_module(module)
    return getattr(imported, name), time.perf_counter() - begun


async def first_round(triggers: list[Any], measured: Measured) -> None:
    """
    Wait until each of our own waits has seen its batch, which the server cannot tell from list requests.

    One or two waits may put off their first look, after a page that showed no awaited batch: they do not
    count.
    """
    module = importlib.import_module("airflow_provider_openai_batches.polling.poller")
    for trigger in triggers:
        while trigger._wait is None or None in trigger._wait.seen.values():  # noqa: SLF001
            polled = [one for poller in module._pollers.values() for one in poller._polled.values()]  # noqa: SLF001
            if polled and all(one.due for one in polled):
                break
            await asyncio.sleep(PROBE_EVERY)
    # Let the triggers write their log lines.
    await asyncio.sleep(0)
    report({"round": measured.so_far()})


def told_from_outside(measured: Measured) -> None:
    sys.stdin.readline()
    report({"round": measured.so_far()})


async def one(trigger: Any, batch_id: str) -> None:
    async for _ in trigger.run():
        report({"event": batch_id, "at": time.time()})


async def waits(
    side: str, trigger_class: Any, batch_ids: list[str], poll_interval: float, portion: int | None
) -> None:
    measured = Measured()
    probe = asyncio.create_task(measured.probe())
    triggers, tasks = [], []
    if side != "ours":
        threading.Thread(target=told_from_outside, args=(measured,), daemon=True).start()
    for number, batch_id in enumerate(batch_ids):
        if portion and number and number % portion == 0:
            await asyncio.sleep(PORTION_EVERY)
        # As the triggerer does between two triggers.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        triggers.append(trigger_class(**arguments(side, batch_id, poll_interval)))
        tasks.append(asyncio.create_task(one(triggers[-1], batch_id)))
    if side == "ours":
        await first_round(triggers, measured)
    await asyncio.gather(*tasks)
    probe.cancel()


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    side = task["side"]
    connection = {"conn_type": CONNECTIONS[side], "password": "bench-key", "host": task["base_url"]}
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
    trigger_class, seconds = import_trigger(side)
    report({"import": seconds})
    if not task["batch_ids"]:
        return
    quiet_logs()
    asyncio.run(waits(side, trigger_class, task["batch_ids"], task["poll_interval"], task.get("portion")))


if __name__ == "__main__":
    main()
