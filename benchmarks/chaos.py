"""
Break a real Airflow at random, and count what that cost.

``python benchmarks/chaos.py --runs 200`` starts an Airflow (SQLite, LocalExecutor) and a local Batch API, and
runs tasks that each submit a batch. Meanwhile it kills processes with SIGKILL and spoils answers at random
moments. It prints a table, and exits with 1 if a batch was paid twice or left running, or results were lost.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "demo"))

from airflow_stack import AirflowStack  # noqa: E402 - after the path is set

from airflow_provider_openai_batches.devserver import DevServerClient  # noqa: E402 - after the path is set

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINT = "/v1/chat/completions"
RUN_ID = "chaos"
DAGS, LINES = 5, 3
BATCH_SECONDS = 30
SLOTS = 16  # how many tasks are queued, running or deferred at a time
GRACE = 180  # how many seconds of the time limit are reserved for the end
# Airflow's own timeouts, shortened from minutes to seconds.
AIRFLOW = {
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS": "8",
    "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "50",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}
KILLS = {
    "task process": 4,
    "worker": 2,
    "scheduler": 2,
    "scheduler alone": 1,
    "triggerer": 3,
    "api-server": 1,
    "execution-api": 2,
}
LOST_ANSWERS: list[dict[str, Any]] = [
    {"action": "drop_before"},
    {"action": "drop_after"},
    {"action": "drop_during"},
    {"action": "half_body"},
    {"action": "delay", "seconds": 4},
    {"action": "status", "status": 429, "headers": {"Retry-After": "1"}},
    {"action": "status", "status": 500, "after": True},
    {"action": "status", "status": 502, "after": True, "body": "<html>Bad Gateway</html>"},
    {"action": "status", "status": 503},
    {"action": "status", "status": 504, "after": True},
]
# A failed create is what can cost money, so it is spoilt most often.
SPOILT = ["create_batch"] * 4 + ["upload_file"] * 2 + ["retrieve_batch", "list_batches", "cancel_batch", "*"]


class Chaos:
    """
    One run.

    :param seed: decides what breaks and when; what the tasks are doing at that time depends on the machine.
    """

    def __init__(self, stack: AirflowStack, server: DevServerClient, seed: int) -> None:
        self.stack = stack
        self.server = server
        self.random = random.Random(seed)  # noqa: S311 - it must be repeatable, not secret
        self.kills: Counter[str] = Counter()
        self.spoilt = 0

    def step(self) -> None:
        """Spoil some answers, and kill something."""
        for _ in range(self.random.randint(1, 3)):
            rule = {"operation": self.random.choice(SPOILT), **self.random.choice(LOST_ANSWERS)}
            self.server.faults([{**rule, "times": self.random.randint(1, 3)}])
        self.server.settings(list_lag_seconds=self.random.choice([0, 0, 1, 3]))
        kind = self.random.choices(list(KILLS), weights=list(KILLS.values()))[0]
        if self._kill(kind):
            self.kills[kind] += 1
            _say(f"killed: {kind}")

    def _kill(self, kind: str) -> bool:
        """Kill a process of this kind; False if there is none right now."""
        if kind in {"task process", "worker"}:
            busy = [worker for worker in self._workers() if "<idle>" not in _title(worker)]
            victims = busy if kind == "worker" else [task for worker in busy for task in _children(worker)]
            return bool(victims) and _end(self.random.choice(victims))
        if kind == "scheduler alone":
            self._kill_scheduler_alone()
        else:
            self.stack.kill(kind)
        time.sleep(self.random.uniform(0, 5))
        self.stack.start_component(kind.split(maxsplit=1)[0])
        return True

    def _kill_scheduler_alone(self) -> None:
        """Leave its busy workers alive: they go on with tasks that Airflow believes to be lost."""
        workers = self._workers()
        process = self.stack.processes.pop("scheduler")
        process.kill()
        process.wait()
        for worker in workers:
            if "<idle>" in _title(worker):
                _end(worker)

    def _workers(self) -> list[psutil.Process]:
        scheduler = psutil.Process(self.stack.processes["scheduler"].pid)
        return [child for child in _children(scheduler) if "LocalExecutor" in _title(child)]

    def mend(self) -> None:
        """Stop breaking things, and wait until everything runs."""
        self.spoilt = self.server.stats()["faults_fired"]
        self.server.clear_faults()
        self.server.settings(list_lag_seconds=0)
        self.stack.wait_until(self.stack.is_healthy, 90, "Airflow is healthy again")


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return "<idle>"


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(process.children())
    return []


def _end(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        process.kill()
        return True
    return False


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def write_inputs(folder: Path, runs: int) -> list[str]:
    """Write one input file for each task, no two lines alike; return the names of the DAGs."""
    for number in range(runs):
        dag = folder / f"chaos_{number % DAGS}"
        dag.mkdir(parents=True, exist_ok=True)
        with (dag / f"{number:04}.jsonl").open("w") as file:
            for line in range(LINES):
                body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"{number}/{line}"}]}
                request = {"custom_id": f"{number}-{line}", "method": "POST", "url": ENDPOINT, "body": body}
                file.write(json.dumps(request) + "\n")
    return sorted(path.name for path in folder.iterdir())


def start_server(home: Path, exits: ExitStack) -> DevServerClient:
    """The Batch API in a process of its own, with its data on disk."""
    arguments = ["--port", "0", "--batch-seconds", str(BATCH_SECONDS), "--data-dir", str(home / "server")]
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_openai_batches.devserver", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    exits.callback(process.wait)
    exits.callback(process.terminate)
    assert process.stdout
    return exits.enter_context(DevServerClient(process.stdout.readline().strip()))


def read_tasks(stack: AirflowStack, dags: list[str]) -> list[dict[str, Any]]:
    """All task instances; empty while the API server is down."""
    with suppress(httpx.HTTPError):
        return [task for dag in dags for task in stack.tasks(dag, RUN_ID)]
    return []


def rage(chaos: Chaos, dags: list[str], runs: int, deadline: float) -> list[dict[str, Any]]:
    """Break things until the tasks are nearly done or ``GRACE`` seconds are left; then let them end."""
    tasks: list[dict[str, Any]] = []

    def done() -> int:
        nonlocal tasks
        tasks = read_tasks(chaos.stack, dags) or tasks
        return sum(task["state"] in {"success", "failed", "upstream_failed"} for task in tasks)

    while (count := done()) < runs * 0.95 and time.monotonic() < deadline - GRACE:
        states = dict(Counter(str(task["state"]) for task in tasks))
        _say(f"{count} of {runs} tasks are done; {states}")
        time.sleep(chaos.random.uniform(4, 14))
        chaos.step()
    _say("no more faults and kills; waiting for the rest")
    chaos.mend()
    while done() < runs and time.monotonic() < deadline:
        time.sleep(2)
    return tasks


def lost_results(stack: AirflowStack, tasks: list[dict[str, Any]], outputs: dict[str, int]) -> Iterator[str]:
    """The tasks that did not end with a batch that has an answer to each of their requests."""
    for task in tasks:
        instance = f"/dags/{task['dag_id']}/dagRuns/{RUN_ID}/taskInstances/{task['task_id']}"
        name = f"{task['dag_id']}.{task['task_id']}[{task['map_index']}] is {task['state']}"
        if task["state"] != "success":
            yield name
            continue
        params = {"map_index": task["map_index"], "deserialize": True}
        batch = stack.api("GET", f"{instance}/xcomEntries/return_value", params=params)["value"]
        if outputs.get(batch["id"]) != LINES:
            yield f"{name}; its batch {batch['id']} has {outputs.get(batch['id'])} answers"


def count_outputs(server: DevServerClient, batches: list[dict[str, Any]]) -> dict[str, int]:
    """How many answers the output file of each batch has."""
    counts = {}
    with httpx.Client(headers={"Authorization": "Bearer key"}, trust_env=False) as http:
        for batch in batches:
            if file_id := batch["output_file_id"]:
                answer = http.get(f"{server.base_url}/files/{file_id}/content").raise_for_status()
                counts[batch["id"]] = len(answer.text.splitlines())
    return counts


def report(chaos: Chaos, tasks: list[dict[str, Any]], seconds: float) -> tuple[str, bool]:
    """The table, and whether all is well."""
    batches, stats = chaos.server.batches(), chaos.server.stats()
    payers = Counter(
        tuple(batch["metadata"][f"airflow_{part}"] for part in ("dag_id", "task_id", "map_index"))
        for batch in batches
        if batch["request_counts"]["completed"]
    )
    twice = sum(count - 1 for count in payers.values())
    lost = list(lost_results(chaos.stack, tasks, count_outputs(chaos.server, batches)))
    running = stats["batches"]["running"]
    statuses = ", ".join(
        f"{count} {status}" for status, count in sorted(stats["batches"]["by_status"].items())
    )
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.kills.items()))
    rows: dict[str, Any] = {
        "task runs": f"{len(tasks)} ({sum(task['try_number'] for task in tasks)} tries)",
        "processes killed": f"{chaos.kills.total()} ({kills})",
        "answers spoilt": chaos.spoilt,
        "batches stored": f"{stats['batches']['stored']} ({statuses})",
        "**batches paid twice**": f"**{twice}** (request lines paid twice: {stats['paid_more_than_once']})",
        "**batches left running**": f"**{running}**",
        "**results lost**": f"**{len(lost)}**",
        "duration": f"{seconds / 60:.1f} min",
    }
    for text in lost:
        _say(f"lost: {text}")
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])
    return table, not (twice or stats["paid_more_than_once"] or running or lost)


def wait_for_server(server: DevServerClient, seconds: float) -> None:
    """Wait for batches that were cancelled at the end, which takes a moment."""
    deadline = time.monotonic() + seconds
    while server.stats()["batches"]["running"] and time.monotonic() < deadline:
        time.sleep(0.5)


def run(options: Any, home: Path, exits: ExitStack) -> bool:
    started = time.monotonic()
    inputs = home / "inputs"
    dags = write_inputs(inputs, options.runs)
    server = start_server(home, exits)
    connection = {
        "conn_type": "openai_batches",
        "host": server.base_url,
        "password": "key",
        "extra": {"timeout": 3},
    }
    environment = {
        **AIRFLOW,
        "CHAOS_INPUTS": str(inputs),
        "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT": json.dumps(connection),
    }
    stack = exits.enter_context(AirflowStack(home / "airflow", HERE / "chaos_dags", environment))
    _say(f"Airflow runs in {home}")
    chaos = Chaos(stack, server, options.seed)
    # Not all at once: whenever something is killed, there must be tasks in every stage of their lives.
    pool = {"name": "default_pool", "slots": SLOTS, "include_deferred": True}
    fields = {"update_mask": ["slots", "include_deferred"]}
    stack.api("PATCH", "/pools/default_pool", json=pool, params=fields)
    for dag in dags:
        stack.trigger(dag, run_id=RUN_ID)
    tasks = rage(chaos, dags, options.runs, started + options.minutes * 60)
    wait_for_server(server, BATCH_SECONDS)
    table, good = report(chaos, tasks, time.monotonic() - started)
    print(f"\nseed {options.seed}\n\n{table}", flush=True)
    return good


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--runs", type=int, default=200, help="how many tasks run")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=25, help="the time limit")
    options = parser.parse_args()
    _say(f"seed {options.seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as exits:
        home = Path(
            exits.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True))
        )
        return 0 if run(options, home, exits) else 1


if __name__ == "__main__":
    sys.exit(main())
