"""
One side of the landing benchmark, in a process and an environment of its own.

It runs the provider's operator as a worker does, before the wait and after it, and prints what that took as
lines of JSON. A line on its standard input says that the batches it waits for are over.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pydantic
from fsspec.implementations.local import LocalFileSystem
from side import become_a_worker, context, quiet_logs, report

if TYPE_CHECKING:
    from collections.abc import Iterator

CONN_ID = "bench"
CONNECTIONS = {"ours": "openai_batches", "common_ai": "pydanticai"}
MODEL = "gpt-5-mini"
PROMPT = (
    "Order {number} of product {product}: say whether the review is positive, negative or neutral. "
    "It works as it should, but the colour is not the one on the picture, and it came two days late."
)


class Store(LocalFileSystem):  # type: ignore[misc]
    """An object store, as far as the provider can tell: not a directory of this machine."""

    protocol = "benchstore"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("benchstore://")


fsspec.register_implementation("benchstore", Store)


def prompts(count: int) -> Iterator[str]:
    for number in range(count):
        yield PROMPT.format(number=number, product=number % 500)


class Review(pydantic.BaseModel):
    """Structured output of a common form."""

    label: str
    score: float
    reasons: list[str]


def operator(side: str, requests: Any, folder: str, batches: int = 1, *, structured: bool = False) -> Any:
    if side == "ours":
        module = importlib.import_module("airflow_provider_openai_batches.operators.inference")
        return module.OpenAIBatchInferenceOperator(
            task_id="ask",
            endpoint="/v1/chat/completions",
            model=MODEL,
            requests=requests,
            output_uri=folder,
            max_requests_per_batch=-(-batch_size(requests) // batches),
            openai_conn_id=CONN_ID,
            output_schema=Review if structured else None,
        )
    module = importlib.import_module("airflow.providers.common.ai.operators.llm_batch")
    return module.LLMBatchOperator(
        task_id="ask",
        requests=requests,
        result_path=f"file://{folder}",
        llm_conn_id=CONN_ID,
        model_id=f"openai:{MODEL}",
        deferrable=True,
        output_type=Review if structured else str,
    )


def batch_size(requests: Any) -> int:
    return len(requests) if isinstance(requests, list) else int(requests.count)


class Prompts:
    """Prompts that are made one after the other, as they are needed."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[str]:
        return prompts(self.count)


class Measured:
    """CPU seconds, and peak memory in MB above what the process had before."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self.before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        self.cpu = time.process_time()

    def so_far(self) -> dict[str, float]:
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        return {"cpu": time.process_time() - self.cpu, "memory": peak - self.before}


def submit(task: dict[str, Any]) -> None:
    """From a list of prompts to the wait."""
    rows = list(prompts(task["count"]))
    asking = operator(task["side"], rows, task["folder"], structured=task["structured"])
    measured = Measured()
    deferral = until_it_waits(lambda: asking.execute(context("bench", "ask")))
    report({**measured.so_far(), "kwargs": getattr(deferral, "kwargs", None) or {}})


def land(task: dict[str, Any]) -> None:
    """From the end of the wait to the results."""
    asking = operator(task["side"], ["none"], task["folder"], structured=task["structured"])
    event: dict[str, Any] = {"status": "finished", "message": "", "batches": {task["batch_id"]: "completed"}}
    if task["side"] != "ours":
        event = {"status": "success", "batch_id": task["batch_id"], "counts": None, "message": ""}
    measured = Measured()
    asking.resume_execution("execute_complete", {**task["kwargs"], "event": event}, context("bench", "ask"))
    report(measured.so_far())


def whole(task: dict[str, Any]) -> None:
    """The task from its first row to its manifest, without the time that it waits."""
    make = Prompts(task["count"])
    asking = operator(task["side"], make, task["folder"], task["batches"])
    measured = Measured()
    deferral = until_it_waits(lambda: asking.execute(context("bench", "ask")))
    while deferral is not None:
        report({"waits": deferral.trigger.batch_ids})
        sys.stdin.readline()
        event = {
            "status": "finished",
            "message": "",
            "batches": dict.fromkeys(deferral.trigger.batch_ids, "completed"),
        }
        resumed = operator(task["side"], make, task["folder"], task["batches"])
        deferral = until_it_waits(
            lambda resumed=resumed, known={**deferral.kwargs, "event": event}: resumed.resume_execution(
                "execute_complete", known, context("bench", "ask")
            )
        )
    report(measured.so_far())


def until_it_waits(run: Any) -> Any:
    """Return the deferral, or None if the task has ended."""
    deferred = importlib.import_module("airflow.providers.common.compat.sdk").TaskDeferred
    try:
        run()
    except deferred as deferral:
        return deferral
    return None


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    connection = {"conn_type": CONNECTIONS[task["side"]], "password": "bench-key", "host": task["base_url"]}
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
    become_a_worker(CONN_ID)
    quiet_logs()
    {"submit": submit, "land": land, "whole": whole}[task["step"]](task)


if __name__ == "__main__":
    main()
