"""
Hundreds of deferred tasks in a real Airflow with one triggerer, which is killed and started again half-way.

Prints a table, and exits with 1 if a task failed or the triggerer was not healthy. Takes some minutes, most
of which Airflow needs to start the tasks' processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "demo"))

from airflow_stack import AirflowStack  # noqa: E402 - after the path is set
from waits import served  # noqa: E402 - after the path is set

if TYPE_CHECKING:
    from waits import Server

DAG_ID, RUN_ID = "many_waits", "bench"
INTERVAL = 20.0
ROUNDS = 3
DEFER_WITHIN = 1_200.0
BLOCKED = "async thread was blocked"


class ManyWaits:
    """One run of the DAG."""

    def __init__(self, stack: AirflowStack, server: Server, ids: list[str]) -> None:
        self.stack = stack
        self.server = server
        self.ids = ids
        self.rows: list[tuple[str, str]] = [("tasks", f"{len(ids)}")]
        self.healthy = 0
        self.looks = 0

    def states(self) -> Counter[str]:
        answer = self.stack.api("GET", f"/dags/{DAG_ID}/dagRuns/{RUN_ID}/taskInstances?limit=1000")
        return Counter(str(task["state"]) for task in answer["task_instances"])

    def count(self, state: str) -> bool:
        """Whether all tasks are in this state; also checks the triggerer's health."""
        time.sleep(2)
        self.looks += 1
        self.healthy += self.stack.is_healthy()
        return self.states()[state] == len(self.ids)

    def requests_a_round(self) -> str:
        time.sleep(INTERVAL)
        before = self.server.requests()
        time.sleep(INTERVAL * ROUNDS)
        return f"{(self.server.requests() - before) / ROUNDS:.1f}"

    def run(self) -> None:
        begun = time.monotonic()
        self.stack.trigger(DAG_ID, run_id=RUN_ID)
        self.stack.wait_until(lambda: self.count("deferred"), DEFER_WITHIN, "all tasks are deferred")
        self.rows.append(("until all were deferred", f"{time.monotonic() - begun:.0f} s"))
        self.rows.append(("requests a round", self.requests_a_round()))
        self.stack.kill("triggerer")
        self.stack.start_component("triggerer")
        self.stack.wait_until(self.stack.is_healthy, 120, "the triggerer is healthy again")
        self.rows.append(("requests a round after a kill of the triggerer", self.requests_a_round()))
        counts = {"total": 1, "completed": 1, "failed": 0}
        for batch_id in self.ids:
            self.server.control.force(
                batch_id, status="completed", request_counts=counts, output_file_id="file-1"
            )
        begun = time.monotonic()
        self.stack.wait_until(lambda: self.states()["deferred"] == 0, INTERVAL * 3, "all triggers fired")
        self.rows.append(
            (f"end of all batches to all events, at {INTERVAL:.0f} s", f"{time.monotonic() - begun:.0f} s")
        )
        self.stack.wait_until(lambda: self.count("success"), DEFER_WITHIN, "all tasks succeeded", self.seen)
        self.rows.append(("succeeded", str(self.states()["success"])))
        self.rows.append(("health checks of the triggerer passed", f"{self.healthy} of {self.looks}"))
        log = (self.stack.home / "triggerer.log").read_text(errors="replace")
        self.rows.append(("warnings of a blocked event loop", str(log.count(BLOCKED))))

    def seen(self) -> str:
        return str(dict(self.states()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=300)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="waits-live-"))
    with served() as server:
        ids = server.running(options.tasks)
        (home / "ids.json").write_text(json.dumps(ids))
        connection = {"conn_type": "openai_batches", "host": server.base_url, "password": "bench-key"}
        environment = {
            "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT": json.dumps(connection),
            "AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "1000",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            "WAITS_IDS": str(home / "ids.json"),
            "WAITS_INTERVAL": str(INTERVAL),
        }
        with AirflowStack(home / "airflow", HERE / "waits_dags", environment) as stack:
            waits = ManyWaits(stack, server, ids)
            waits.run()
    print("| deferred in a real Airflow | |\n| --- | ---: |")
    print("\n".join(f"| {name} | {value} |" for name, value in waits.rows))
    sys.exit(waits.healthy != waits.looks)


if __name__ == "__main__":
    main()
