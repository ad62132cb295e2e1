"""
PURE: the key that names a task's batch, and which of the listed batches is that one.

The service is the ledger: each batch carries its key in its own metadata, so whatever dies on Airflow's
side, listing the batches finds it again. A key has two halves, ``<task>-<input>``: the first says whose batch
it is, the second what was asked.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.api.models import Batch

KEY = "airflow_key"
# A batch older than this is not searched for: its files are gone at the service (30 days).
MAX_AGE = 30 * 24 * 3600
# How far the clocks of Airflow and the service may be apart, in seconds.
CLOCK_SKEW = 900


class TaskIdentity(msgspec.Struct, frozen=True):
    """Which task of which run of which Airflow asks."""

    deployment_id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def task_key(self) -> str:
        return _digest(self.deployment_id, self.dag_id, self.run_id, self.task_id, str(self.map_index))

    def key(self, input_digest: str, shard: int = 0) -> str:
        """
        The key of one batch.

        :param input_digest: the input file's id, or the SHA-256 of its content, and what else counts.
        :param shard: which of a job's batches.
        """
        return f"{self.task_key}-{_digest(str(shard), input_digest)}"

    def metadata(self, key: str, own: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a batch carries: the user's own pairs, the key, and names to read."""
        return {
            **(own or {}),
            KEY: key,
            "airflow_dag_id": self.dag_id,
            "airflow_run_id": self.run_id,
            "airflow_task_id": self.task_id,
            "airflow_map_index": str(self.map_index),
        }


def one_time_key() -> str:
    """The key of a create outside a task: only good for finding this one create's batch."""
    return f"once-{uuid.uuid4().hex}"


def key_of(batch: Batch) -> str | None:
    return (batch.metadata or {}).get(KEY)


def is_usable(batch: Batch) -> bool:
    """Whether a task may take this batch as its own: it runs, or it is completed with some success."""
    if batch.status == "completed":
        return batch.request_counts is None or batch.counts.completed > 0 or batch.counts.total == 0
    return not batch.is_over and batch.status != "cancelling"


def choose(batches: Iterable[Batch], key: str) -> Batch | None:
    """The batch with this key that may be used: a completed one before one that still runs."""
    mine = [batch for batch in batches if key_of(batch) == key and is_usable(batch)]
    return min(mine, key=lambda batch: batch.status != "completed", default=None)


def outdated(batches: Iterable[Batch], task_key: str, keys: Iterable[str]) -> list[Batch]:
    """This task's batches that still run although it now asks something else."""
    wanted = set(keys)
    return [
        batch
        for batch in batches
        if (key := key_of(batch))
        and key.startswith(f"{task_key}-")
        and key not in wanted
        and is_running(batch)
    ]


def is_running(batch: Batch) -> bool:
    return not batch.is_over and batch.status != "cancelling"


def _digest(*parts: str) -> str:
    # msgspec's JSON keeps ("a", "bc") and ("ab", "c") apart.
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
