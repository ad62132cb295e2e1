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

# In this order at first, each as soon as there is something to lose. Later ones are drawn from those kinds
# that were killed least often so far and have a victim, so that each has its share.
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
        self._left = wanted
        self._say = say
        self._random = random.Random(SEED)  # noqa: S311 - it must be repeatable, not secret
        self._next = 0.0
        self.done: Counter[str] = Counter()

    def step(self, task: Mapping[str, Any]) -> None:
        """Kill something if it is time to; ``task`` is the task instance that runs the job."""
        if not self._left or time.monotonic() < self._next:
            return
        kind, name = self._choose(task)
        if name is not None:
            self._kill(name)
            self.done[kind] += 1
            self._left -= 1
            self._next = time.monotonic() + PAUSE

    def _choose(self, task: Mapping[str, Any]) -> tuple[str, str | None]:
        number = self.done.total()
        if number < len(FIRST):
            return FIRST[number], self._victim(FIRST[number], task)
        kinds = [*FIRST, "dag-processor", "execution-api", *self._servers]
        victims = {kind: self._victim(kind, task) for kind in kinds}
        found = [kind for kind in kinds if victims[kind] is not None]
        fewest = min(self.done[kind] for kind in found)
        kind = self._random.choice([kind for kind in found if self.done[kind] == fewest])
        return kind, victims[kind]

    def _victim(self, kind: str, task: Mapping[str, Any]) -> str | None:
        """The one that has the task or its trigger now; None if none has."""
        if kind == "worker":
            return task["hostname"] if task["state"] == "running" and task["hostname"] in WORKERS else None
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
