"""
The job of another provider in the makespan benchmark, in a process and an environment of its own.

Both of the others submit one batch a task and do not cut a job into batches. So a job of N batches is N
mapped tasks, as ``LLMBatchOperator`` advises where it is given too many requests ("Split the input with
.expand()"): here N threads. An operator runs in each with ``deferrable=False``, because an event loop does
not know the server's clock, and looks at its batch as often as ours does. All else is left at the operators'
defaults.

- ``OpenAITriggerBatchOperator`` takes the id of an uploaded file. As in its example DAG, the hook uploads the
  file first. The operator returns the id of the batch; the answers are read from the batch's output file.
- ``LLMBatchOperator`` makes and uploads the file itself. The answers are read from the file that it leaves. A
  retry takes up the batch of the try before; if the service rejected that one, it submits another.

Retries are Airflow's part, which stands here in its place: ``retry_delay`` after a failed try a new operator
runs, at most ``retries`` times. Scheduling a retry and starting its process take no time here. The docs name
no number for batches; those of ``LLMBatchOperator`` say that retries are safe, and Airflow's default is none.
So there are two numbers: 3, as in most examples of the common.ai provider that have retries, and as many as
it takes. The delay is Airflow's default, five minutes.

A request that failed in a completed batch causes no retry: both operators then succeed. With
``fail_on_partial_error`` a retry of ``LLMBatchOperator`` would read the same results again, as its docs say.

A pool in Airflow that counts deferred tasks can also hold back tasks, if the author of the DAG knows how many
batches fit into the account's limit: ``at_once``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from makespan_cases import CHAT, MODEL, TOKENS, Task, bodies
from makespan_side import CONN_ID, live_by
from side import become_a_worker, context, quiet_logs, report

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = {"official": "openai", "common_ai": "pydanticai"}
MODULES = {
    "official": ["airflow.providers.openai.operators.openai"],
    "common_ai": [
        "airflow.providers.common.ai.operators.llm_batch",
        "airflow.providers.common.ai.batch.openai",
    ],
}
MAX_TOKENS = 1_024  # the default of LLMBatchOperator, which adds it to each body


class Part(NamedTuple):
    """What one of the mapped tasks asks."""

    task: Task
    number: int
    bodies: list[dict[str, Any]]

    @property
    def task_id(self) -> str:
        return f"{self.task.name}-{self.number}"

    def context(self) -> dict[str, Any]:
        given = context("makespan", self.task.name)
        given["ti"].map_index = self.number
        return given


class Asked(NamedTuple):
    """How a mapped task ended: the number of its rows that have an answer, and the error of its last try."""

    answered: int
    error: str = ""


def parts(task: Task) -> list[Part]:
    made = list(bodies(task))
    each = task.requests_per_batch
    return [Part(task, first // each, made[first : first + each]) for first in range(0, len(made), each)]


def prompt_of(body: dict[str, Any]) -> str:
    """The body's text, shorter by what LLMBatchOperator puts around it: so the request has TOKENS tokens."""
    line = json.dumps({**body, "max_completion_tokens": MAX_TOKENS})
    text: str = body["messages"][0]["content"]
    return text[: TOKENS * 4 - len(line)]


def common_ai(part: Part) -> Callable[[], int]:
    module = importlib.import_module("airflow.providers.common.ai.operators.llm_batch")
    storage = importlib.import_module("airflow.sdk").ObjectStoragePath

    def one_try() -> int:
        asking = module.LLMBatchOperator(
            task_id=part.task_id,
            requests=[prompt_of(body) for body in part.bodies],
            result_path=f"file://{part.task.folder}",
            llm_conn_id=CONN_ID,
            model_id=f"openai:{MODEL}",
            deferrable=False,
            poll_interval=int(part.task.poll_interval),
        )
        manifest = asking.execute(part.context())
        rows = storage(manifest["result_uri"]).read_text().splitlines()
        return sum(json.loads(row)["status"] == "success" for row in rows)

    return one_try


def official(part: Part) -> Callable[[], int]:
    module = importlib.import_module("airflow.providers.openai.operators.openai")
    hook = importlib.import_module("airflow.providers.openai.hooks.openai").OpenAIHook(conn_id=CONN_ID)
    file_id = upload(hook, part)

    def one_try() -> int:
        asking = module.OpenAITriggerBatchOperator(
            task_id=part.task_id,
            file_id=file_id,
            endpoint=CHAT,
            conn_id=CONN_ID,
            deferrable=False,
            wait_seconds=part.task.poll_interval,
        )
        batch = hook.get_batch(asking.execute(part.context()))
        output = hook.conn.files.content(batch.output_file_id).text if batch.output_file_id else ""
        return sum(json.loads(row)["response"]["status_code"] == 200 for row in output.splitlines())  # noqa: PLR2004

    return one_try


def upload(hook: Any, part: Part) -> str:
    first = part.number * part.task.requests_per_batch
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for number, body in enumerate(part.bodies, first):
            line = {"custom_id": f"row-{number}", "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        file.flush()
        return str(hook.upload_file(file.name, purpose="batch").id)


def asked(side: str, part: Part) -> Asked:
    """Run a mapped task as often as its retries allow."""
    options = part.task.options
    one_try = {"official": official, "common_ai": common_ai}[side](part)
    error, left = "", options["retries"]
    while True:
        try:
            return Asked(one_try())
        except Exception as failure:  # noqa: BLE001 - as for Airflow, any is a failed try
            error = f"{type(failure).__name__}: {failure}"
        if left == 0:
            return Asked(0, error)
        left -= 1
        time.sleep(options["retry_delay"])


def run(side: str, task: Task, clock: Callable[[], float]) -> dict[str, Any]:
    began, made = clock(), parts(task)
    with ThreadPoolExecutor(task.options["at_once"] or len(made)) as pool:
        ended = list(pool.map(lambda part: asked(side, part), made))
    errors = [one.error for one in ended if one.error]
    error = f"{len(errors)} of {len(ended)} tasks failed, one of them with {errors[0]}" if errors else ""
    return {"seconds": clock() - began, "succeeded": sum(one.answered for one in ended), "error": error}


def get_ready(side: str, task: Task) -> None:
    """Import what the job needs: a second of that is nothing beside its hours, but here it is minutes."""
    for module in MODULES[side]:
        importlib.import_module(module)
    openai = importlib.import_module("openai")
    client = openai.OpenAI(api_key="bench-key", base_url=task.base_url)
    client.batches.list(limit=1)  # the client imports more of itself when it is first used
    importlib.import_module("openai.resources.files")


def main() -> None:
    side, task = sys.argv[2], Task(**json.loads(Path(sys.argv[1]).read_text()))
    clock = live_by(task.base_url, task.speed)
    connection = {"conn_type": CONNECTIONS[side], "password": "bench-key", "host": task.base_url}
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
    become_a_worker(CONN_ID)
    get_ready(side, task)
    quiet_logs()
    report({"ready": True})
    sys.stdin.readline()
    report(run(side, task, clock))


if __name__ == "__main__":
    main()
