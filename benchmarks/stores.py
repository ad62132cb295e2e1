"""
A job's time with its output on S3, beside the same job in a local directory.

Runs in the environment of ``make test-stores``: moto is the store, in a process of its own on this machine.
Prints markdown: seconds of the worker from the first row to the manifest without the wait for the batch, the
median of several runs that take turns. The making of the store's client is a row of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import dev_server, environment_of
from landing import wait_until_over
from landing_side import CONN_ID, CONNECTIONS, Prompts, operator, until_it_waits
from side import become_a_worker, context, quiet_logs, report

from airflow_provider_openai_batches.devserver import DevServerClient

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bench"
PLACES = {"a directory": "", "S3": f"s3://aws_default@{BUCKET}"}


@contextmanager
def moto() -> Iterator[dict[str, Any]]:
    """Start the store, and yield the connection to it."""
    port = "5099"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    extra = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
    try:
        time.sleep(5)
        yield {"conn_type": "aws", "login": "someone", "password": "of-the-benchmark", "extra": extra}
    finally:
        process.terminate()
        process.wait()


def run_side(task: dict[str, Any]) -> None:
    """Run the task as a worker does, and report its seconds."""
    connection = {"conn_type": CONNECTIONS["ours"], "password": "bench-key", "host": task["base_url"]}
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(task["aws"])
    become_a_worker(CONN_ID)
    quiet_logs()
    began = time.perf_counter()
    if task["folder"].startswith("s3"):
        from airflow_provider_openai_batches.storage import as_path  # noqa: PLC0415 - what it takes is measured

        as_path(task["folder"]).fs.makedirs(BUCKET, exist_ok=True)
    client, seconds, cpu = time.perf_counter() - began, 0.0, time.process_time()
    waits = partial(until_it_waits, partial(new(task).execute, context("bench", "ask")))
    while True:
        began = time.perf_counter()
        deferral = waits()
        seconds += time.perf_counter() - began
        if deferral is None:
            report({"seconds": seconds, "client": client, "cpu": time.process_time() - cpu})
            return
        wait_until_over(DevServerClient(task["base_url"]))
        batches = dict.fromkeys(deferral.trigger.batch_ids, "completed")
        known = {**deferral.kwargs, "event": {"status": "finished", "message": "", "batches": batches}}
        going_on = new(task).resume_execution
        waits = partial(until_it_waits, partial(going_on, "execute_complete", known, context("bench", "ask")))


def new(task: dict[str, Any]) -> Any:
    return operator("ours", Prompts(task["count"]), task["folder"])


def measure(place: str, count: int, base_url: str, aws: dict[str, Any]) -> dict[str, float]:
    DevServerClient(base_url).reset()
    home = Path(tempfile.mkdtemp())
    folder = f"{PLACES[place] or home}/out-{time.time_ns()}"
    task = {"folder": folder, "count": count, "base_url": base_url, "aws": aws}
    command = [sys.executable, "-W", "ignore", __file__, "--side", json.dumps(task)]
    try:
        ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment_of(home))
        found: dict[str, float] = json.loads(
            next(line for line in ran.stdout.splitlines() if line.startswith("{"))
        )
        return found
    finally:
        shutil.rmtree(home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side")
    given = parser.parse_args()
    if given.side:
        run_side(json.loads(given.side))
        return
    found: dict[str, list[dict[str, float]]] = {place: [] for place in PLACES}
    with dev_server("--batch-seconds", "1") as base_url, moto() as aws:
        for _ in range(given.runs):
            for place, runs in found.items():
                runs.append(measure(place, given.rows, base_url, aws))
    medians = {
        place: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for place, runs in found.items()
    }
    print(f"| {given.rows:,} rows, one batch | " + " | ".join(medians) + " | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for name, title in {"seconds": "seconds", "cpu": "CPU seconds", "client": "making the client, s"}.items():
        local, store = (median[name] for median in medians.values())
        ratio = f"{store / local:.2f}" if name != "client" else ""
        print(f"| {title} | {local:.1f} | {store:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
