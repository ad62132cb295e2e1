"""Ends processes of the cluster with SIGKILL while a job runs, and starts them again."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cluster import TRIGGERERS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster import Cluster
    from server import Server

# In this order at first, each as soon as there is something to lose. Later ones are drawn at random, and each
# kind has its share; a worker is killed as soon as it runs a try that was not killed before.
FIRST = ("worker", "triggerer", "scheduler")
DOWN = 3.0  # seconds that what was killed stays away
PAUSE = 8.0  # seconds from one start to the next kill
SEED = 14


class Kills:
    """
    :param servers: those that may be killed too, once each kind of ``FIRST`` was.
    :param wanted: how many kills there are to be.
    """

    def __init__(
        self, cluster: Cluster, servers: Mapping[str, Server], wanted: int, say: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._servers = servers
        self._kinds = [*FIRST, "dag-processor", "execution-api", *servers]
        self._left = wanted
        self._say = say
        self._random = random.Random(SEED)  # noqa: S311 - it must be repeatable, not secret
        self._share = -(-wanted // len(self._kinds))
        self._next = 0.0
        self._killed_tries: set[tuple[str, int]] = set()
        self.done: Counter[str] = Counter()

    def step(self, task: Mapping[str, Any]) -> None:
        """Kill something if it is time to; ``task`` is the task instance that runs the job."""
        if not self._left:
            return
        kind, name = self._choose(task)
        if name is not None and (kind == "worker" or time.monotonic() >= self._next):
            if kind == "worker":
                self._killed_tries.add((task["task_id"], task["try_number"]))
            self._kill(name)
            self.done[kind] += 1
            self._left -= 1
            self._next = time.monotonic() + PAUSE

    def _choose(self, task: Mapping[str, Any]) -> tuple[str, str | None]:
        number = self.done.total()
        if number < len(FIRST):
            return FIRST[number], self._victim(FIRST[number], task)
        victims = {kind: self._victim(kind, task) for kind in self._kinds if self.done[kind] < self._share}
        found = [kind for kind, name in victims.items() if name is not None]
        kind = "worker" if "worker" in found or not found else self._random.choice(found)
        return kind, victims.get(kind)

    def _victim(self, kind: str, task: Mapping[str, Any]) -> str | None:
        """The one that has the task or its trigger now; None if none has."""
        if kind == "worker":
            is_new = (task["task_id"], task["try_number"]) not in self._killed_tries
            is_there = task["state"] == "running" and task["hostname"] in WORKERS
            return task["hostname"] if is_there and is_new else None
        if kind == "triggerer":
            job = task.get("triggerer_job") or {}
            return job.get("hostname") if job.get("hostname") in TRIGGERERS else None
        if kind == "scheduler":
            return kind if task["state"] in {"running", "deferred"} else None
        return kind

    def _kill(self, name: str) -> None:
        server = self._servers.get(name)
        self._say(f"killed: {name}")
        if server:
            server.kill()
        else:
            self._cluster.kill(name)
        time.sleep(DOWN)
        if server:
            server.start()
        else:
            self._cluster.start_component(name)
