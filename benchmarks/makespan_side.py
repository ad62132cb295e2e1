"""
One job of the makespan benchmark, in a process of its own, as a task that waits in its worker.

The process lives by the clock of the dev server, which runs many times faster than real time: ``time.time``
and ``time.sleep`` are replaced before anything else is imported. So every interval, pause and deadline of the
job is in proportion. It prints lines of JSON: that it is ready, and then how the job ended.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from makespan_cases import CHAT, MODEL, Task, bodies
from side import become_a_worker, context, quiet_logs, report

if TYPE_CHECKING:
    from collections.abc import Callable

CONN_ID = "bench"
MODULES = ("inference.runner", "inference.data.followup", "triggers.openai_batches", "api.client")


def live_by(base_url: str, speed: float) -> Callable[[], float]:
    """Let this process live by the server's clock; return the clock."""
    real, sleep, stats = time.monotonic, time.sleep, base_url.removesuffix("/v1") + "/_dev/stats"
    began = real()
    with urllib.request.urlopen(stats) as answer:  # noqa: S310 - http, on this machine
        shown = json.load(answer)["now"] - speed * (real() - began) / 2

    def now() -> float:
        return float(shown + (real() - began) * speed)

    time.time = now
    time.sleep = lambda seconds: sleep(float(seconds) / speed)
    return now


def operator(task: Task) -> Any:
    """The operator; only its waiting is replaced, because an event loop does not know the server's clock."""
    module = importlib.import_module("airflow_provider_openai_batches.operators.inference")

    class Operator(module.OpenAIBatchInferenceOperator):  # type: ignore[misc, name-defined]
        def _run(self, context: Any, runner: Any) -> Any:  # noqa: ARG002 - as the operator
            while (wait := runner.advance()) is not None:
                named = {"return_when": wait.return_when, "progress": runner.progress()}
                trigger = self._trigger(wait.batch_ids, wait.until, **named)
                self._heard(runner, waited(self.hook, trigger), wait.until)
            return runner.finish()

    return Operator(
        task_id=task.name,
        endpoint=CHAT,
        model=MODEL,
        requests=bodies(task),
        output_uri=task.folder,
        openai_conn_id=CONN_ID,
        deferrable=False,
        poll_interval=task.poll_interval,
        max_requests_per_batch=task.requests_per_batch,
        **task.options,
    )


def waited(hook: Any, trigger: Any) -> dict[str, Any]:
    """Wait as the trigger would, with one list of batches at a time; return its event."""
    wait = trigger._begin()  # noqa: SLF001 - the trigger's own state
    while not wait.ending:
        for batch in hook.iter_batches():
            wait.saw(batch, time.time())
            if not wait.pending:
                break
        if not wait.ending:
            wait.tick(time.time())
            time.sleep(max(0.0, min(trigger.poll_interval, wait.deadline - time.time())))
            wait.tick(time.time())
    event: dict[str, Any] = wait.payload()
    return event


def succeeded(folder: str) -> int:
    """How many rows have an answer in the results."""
    parts = Path(folder).glob("part-*.jsonl")
    rows = (json.loads(line) for part in parts for line in part.read_bytes().splitlines())
    return sum(row["status"] == "succeeded" for row in rows)


def run(task: Task, clock: Callable[[], float]) -> dict[str, Any]:
    error, began = "", clock()
    try:
        asking = operator(task)
        asking.execute(context("makespan", task.name))
    except Exception as failure:  # noqa: BLE001 - it is reported
        error = str(failure) or type(failure).__name__
    return {"seconds": clock() - began, "succeeded": succeeded(task.folder), "error": error}


def main() -> None:
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    clock = live_by(task.base_url, task.speed)
    connection = {"conn_type": "openai_batches", "password": "bench-key", "host": task.base_url}
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
    become_a_worker(CONN_ID)
    for module in MODULES:
        importlib.import_module(f"airflow_provider_openai_batches.{module}")
    operator(task)
    quiet_logs()
    report({"ready": True})
    sys.stdin.readline()
    report(run(task, clock))


if __name__ == "__main__":
    main()
