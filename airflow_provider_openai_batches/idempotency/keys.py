"""
The key that a task's batch carries in its metadata, and the names next to it.

The service keeps the record: whatever fails on Airflow's side, a task finds its batches again by listing them
and comparing their keys. A key has two halves, ``<task>-<input>``: the first says whose batch it is, the
second what was asked.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_openai_batches.api.models import Batch, File

# What a batch's metadata says about its task. Every pair that this provider adds begins with the prefix.
PREFIX = "airflow_"
KEY = "airflow_key"
DAG_ID = "airflow_dag_id"
RUN_ID = "airflow_run_id"
TASK_ID = "airflow_task_id"
MAP_INDEX = "airflow_map_index"
# The names of the pairs that the provider adds to a batch's metadata.
METADATA_KEYS = (KEY, DAG_ID, RUN_ID, TASK_ID, MAP_INDEX)
# The estimated prompt tokens of a batch and its model, for all who share its account's limit. The pair is
# left out where the user's own pairs leave no room for it.
TOKENS = "airflow_tokens"
MAX_PAIRS = 16
_MAX_TOKEN_DIGITS = 15
# Begins the id of a deployment that was given none. The rest is a guess, which may differ between workers.
UNNAMED = "unnamed:"
# Ends the first half of its keys, so that no deployment with an id is taken for it.
_UNNAMED_MARK = "u"
# Longer numbers are not map indexes, and Python refuses to read those of thousands of digits.
MAX_MAP_INDEX_DIGITS = 9


class TaskIdentity(msgspec.Struct, frozen=True):
    """
    A task in a DAG run of one deployment of Airflow.

    :param guess: the ``deployment_id`` that stands for one that is not given, beginning with ``UNNAMED``.
    """

    deployment_id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    guess: str = ""

    @property
    def task_key(self) -> str:
        """The first half of the keys of all its batches."""
        digest = self._key_of_first_release
        return digest[:-1] + _UNNAMED_MARK if self._is_unnamed else digest

    @property
    def _is_unnamed(self) -> bool:
        return self.deployment_id.startswith(UNNAMED)

    @property
    def _key_of_first_release(self) -> str:
        """The first half as it was before deployments without an id were told from the others."""
        names = self.dag_id, self.run_id, self.task_id, str(self.map_index)
        return _digest(self.deployment_id.removeprefix(UNNAMED), *names)

    def owns(self, batch: Batch) -> bool:
        return (key_of(batch) or "").startswith(f"{self.task_key}-")

    def made(self, batch: Batch) -> bool:
        """Whether it made a batch under this id of its deployment, now or with the first release."""
        halves = {self.task_key}
        # The first release knew a deployment without an id by its URL alone, never by the name of a host.
        if "://" in self.deployment_id:
            halves.add(self._key_of_first_release)
        half, dash, _ = (key_of(batch) or "").partition("-")
        return bool(dash) and half in halves

    def renamed(self, batch: Batch) -> Batch | None:
        """
        Return a batch that this task may have made while its deployment had no id, with its present key.

        The readable names decide, and for a deployment that has an id now, also what stood for it before. The
        names may be those of another deployment without an id. That one asked the same, so the answers can be
        used, but this task must not cancel the batch.
        """
        half, _, asked = (key_of(batch) or "").partition("-")
        names = self.dag_id, self.run_id, self.task_id, self.map_index
        if half == self.task_key or Origin.of(batch) != Origin(*names):
            return None
        # The first release marked no keys, and its id was empty where there was no [api] base_url.
        ids = {"", self.deployment_id, self.guess} if self._is_unnamed else {self.guess} - {""}
        unmarked = {_digest(each.removeprefix(UNNAMED), *map(str, names)) for each in ids}
        is_known = self._is_unnamed or half[:-1] in {each[:-1] for each in unmarked}
        if half not in unmarked and not (half.endswith(_UNNAMED_MARK) and is_known):
            return None
        metadata = {**(batch.metadata or {}), KEY: f"{self.task_key}-{asked}"}
        return msgspec.structs.replace(batch, metadata=metadata)

    def may_have_been(self, deployment_id: str) -> bool:
        """Whether this task may have run under that id, because its deployment was given none."""
        return deployment_id.startswith(UNNAMED) and (self._is_unnamed or deployment_id == self.guess)

    def key(self, input_digest: str, shard: int = 0) -> str:
        """
        Return the key of one batch.

        :param input_digest: the input file's id or the SHA-256 of its content, and all else that must match.
        :param shard: the number of the batch within its job.
        """
        return f"{self.task_key}-{_digest(str(shard), input_digest)}"

    def metadata(self, key: str, own: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a batch's metadata: the user's own pairs, the key, and the names for people to read."""
        return {
            **(own or {}),
            KEY: key,
            DAG_ID: self.dag_id,
            RUN_ID: self.run_id,
            TASK_ID: self.task_id,
            MAP_INDEX: str(self.map_index),
        }


class Origin(msgspec.Struct, frozen=True):
    """The task that made a batch, according to the batch's metadata, which anybody can have written."""

    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1

    @classmethod
    def of(cls, batch: Batch) -> Origin:
        metadata = batch.metadata or {}
        index = metadata.get(MAP_INDEX, "")
        is_index = index.isascii() and index.isdigit() and len(index) <= MAX_MAP_INDEX_DIGITS
        return cls(
            dag_id=metadata.get(DAG_ID) or None,
            run_id=metadata.get(RUN_ID) or None,
            task_id=metadata.get(TASK_ID) or None,
            map_index=int(index) if is_index else -1,
        )

    @property
    def task(self) -> str | None:
        """The task's id, followed by the map index of a mapped task: ``ask[2]``."""
        return f"{self.task_id}[{self.map_index}]" if self.task_id and self.map_index >= 0 else self.task_id

    def is_within(self, dag_id: str | None, run_id: str | None) -> bool:
        """Whether the task belongs to this DAG and run; None matches any."""
        return dag_id in {None, self.dag_id} and run_id in {None, self.run_id}


def one_time_key() -> str:
    """Return a key for a create outside a task; it only serves to find the batch of that create."""
    return f"once-{uuid.uuid4().hex}"


def key_of(batch: Batch) -> str | None:
    return (batch.metadata or {}).get(KEY)


def is_of(batch: Batch, deployment_id: str) -> bool:
    """
    Whether a batch's key proves that the task which its metadata names made it, in this deployment.

    The names alone prove nothing: others who use the same API key may have a DAG of that name.
    """
    named = Origin.of(batch)
    if not (named.dag_id and named.run_id and named.task_id):
        return False
    task = TaskIdentity(deployment_id, named.dag_id, named.run_id, named.task_id, named.map_index)
    return task.made(batch)


def with_estimate(own: Mapping[str, str], tokens: int, model: str | None) -> Mapping[str, str]:
    """Return a user's own pairs, and with them the estimate of a batch's tokens if there is room for it."""
    if len(own) + len(METADATA_KEYS) >= MAX_PAIRS:
        return own
    return {**own, TOKENS: f"{tokens} {model or ''}".strip()}


def estimate_of(batch: Batch) -> tuple[int, str] | None:
    """Return the estimated tokens of a batch and its model; None if its metadata does not say."""
    digits, _, model = (batch.metadata or {}).get(TOKENS, "").partition(" ")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_TOKEN_DIGITS):
        return None
    return int(digits), model


def model_of(batch: Batch) -> str | None:
    """Return the model of a batch; services that do not say it give back the metadata that may."""
    return batch.model or (estimate_of(batch) or (0, ""))[1] or None


def task_of(batch: Batch) -> str:
    """Return the first half of a batch's key, which says whose it is; empty if it has no key."""
    return (key_of(batch) or "").partition("-")[0]


def file_name(key: str) -> str:
    """Return the name of the input file that is uploaded for the batch with this key."""
    return f"airflow-{key}.jsonl"


def names_of(files: Iterable[File]) -> dict[str, str]:
    """Return the names of input files that can be used, by id."""
    return {file.id: file.filename for file in files if file.filename and file.status != "error"}


def signed(batch: Batch, names: Mapping[str, str]) -> Batch:
    """
    Return a batch with the key that it was created with, where the service gives no metadata back.

    :param names: names of input files, by id. The name of the batch's own has the same key.
    """
    filename = names.get(batch.input_file_id or "", "")
    key = filename.removeprefix("airflow-").removesuffix(".jsonl")
    if key_of(batch) is not None or file_name(key) != filename:
        return batch
    return msgspec.structs.replace(batch, metadata={**(batch.metadata or {}), KEY: key})


def _digest(*parts: str) -> str:
    # Encoded as JSON, because ("a", "bc") and ("ab", "c") must differ.
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
