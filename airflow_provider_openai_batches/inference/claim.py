"""
Whose output directory it is: ``_job/owner.json`` names the one task that may write there.

Without it, two tasks with the same ``output_uri`` would delete each other's results. A task takes the claim
before it reads a row, looks again before each step, and gives it up when its results are complete. A later
try of the same task goes on with it. The claim of a task that was killed for good ends by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.compat.supervisor import task_state
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.idempotency import cancel

if TYPE_CHECKING:
    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity

CLAIM_FILE = "owner.json"
# Seconds that a claim holds beyond the last moment at which its batches may end: enough for another try.
LEASE = 86_400.0
_NAMES = ("dag_id", "run_id", "task_id", "map_index")


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the file says.

    :param owner: the first part of the task's key.
    :param since: Unix seconds; so is ``until``, when the claim ends by itself.
    """

    owner: str
    since: float
    until: float
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1

    @property
    def task(self) -> str:
        if not self.task_id:
            return "Another task"
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"Task {self.task_id}{index} of DAG {self.dag_id}, run {self.run_id},"


class ClaimFile:
    """
    The claim on one output directory.

    :param directory: the ``_job`` directory below the output.
    :param owner: the first part of the key of the task whose claim is taken here.
    :param task: the task; without it, the states of other tasks cannot be asked for.
    """

    def __init__(self, directory: storage.AnyPath, owner: str, task: TaskIdentity | None = None) -> None:
        self._directory, self._path, self._task = directory, directory / CLAIM_FILE, task
        given = {} if task is None else {name: getattr(task, name) for name in _NAMES}
        self._mine = Claim(owner=owner, since=0, until=0, **given)
        self.is_new = False

    def take(self, now: float, *, overwrite: bool = False) -> None:
        """
        Claim the directory, or go on with a claim that this task has.

        :param overwrite: replace the claim of another task, unless that task is known to be at work.
        :raises InvalidInputError: if the directory belongs to another task.
        """
        mine = msgspec.structs.replace(self._mine, since=now, until=now + LEASE)
        self.is_new = self._create(mine)
        if self.is_new:
            self.check()  # not every store can say that another task was quicker
            return
        other = self._read()
        if other is not None and other.owner == mine.owner:
            return
        if other is not None and now <= other.until:
            is_over = self._is_over(other)
            if is_over is False or not (is_over or overwrite):
                raise self._refusal(other)
        self._write(mine)
        self.is_new = True
        self.check()

    def check(self) -> Claim:
        """
        Return the claim of this task.

        :raises InvalidInputError: if another task has the directory now, or nobody has.
        """
        found = self._read()
        if found is None or found.owner != self._mine.owner:
            raise self._refusal(found)
        return found

    @property
    def is_there(self) -> bool:
        return bool(self._path.exists())

    def extend(self, now: float, until: float) -> None:
        """
        Hold the directory until then and a day longer.

        :raises InvalidInputError: if another task has it now.
        """
        found = self._read() or msgspec.structs.replace(self._mine, since=now)
        if found.owner != self._mine.owner:
            raise self._refusal(found)
        if found.until < until:
            self._write(msgspec.structs.replace(found, until=until + LEASE))

    def release(self) -> None:
        """Give the directory up, if it is this task's."""
        found = self._read()
        if found is not None and found.owner == self._mine.owner:
            self._path.unlink()

    def _read(self) -> Claim | None:
        trouble = "is not the claim of a task: {}. Delete it if no task writes to this directory"
        try:
            return storage.read_json(self._path, Claim, trouble)
        except FileNotFoundError:  # given up a moment ago
            return None

    def _write(self, claim: Claim) -> None:
        storage.write_json(self._path, claim)

    def _create(self, claim: Claim) -> bool:
        """Write the claim unless there is one; return whether it was written."""
        content = msgspec.json.encode(claim)
        try:
            if storage.local(self._path) is not None:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                with self._path.open("xb") as file:
                    file.write(content)
            else:
                self._create_in_store(content)
        except FileExistsError:
            return False
        return True

    def _create_in_store(self, content: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)  # some stores have directories
        if self._path.exists():
            raise FileExistsError(str(self._path))
        try:
            self._path.fs.pipe_file(self._path.path, content, mode="create")  # refused if it is there by now
        except (TypeError, NotImplementedError, ValueError):  # this store, or an old fsspec, does not know it
            self._path.fs.pipe_file(self._path.path, content)

    def _is_over(self, other: Claim) -> bool | None:
        """Say whether another task has ended for good; None if that cannot be found out."""
        if self._task is None:
            return None
        there = msgspec.structs.replace(self._task, **{name: getattr(other, name) for name in _NAMES})
        if not there.task_key.startswith(other.owner):  # a task of another Airflow
            return None
        state = task_state(there, cancel.ASK_SECONDS)
        return None if state is None else state in cancel.OVER

    def _refusal(self, other: Claim | None) -> InvalidInputError:
        place = self._directory.parent
        if other is None:
            return InvalidInputError(
                f"{self._path} is gone: another task replaced this one in {place}, or somebody deleted the "
                "file. Nothing was written. Give each task an output_uri of its own and run this one again"
            )
        since = datetime.fromtimestamp(other.since, UTC).isoformat(timespec="seconds")
        until = datetime.fromtimestamp(other.until, UTC).isoformat(timespec="seconds")
        return InvalidInputError(
            f"{other.task} has been writing to {place} since {since}; two tasks there would delete each "
            "other's results. Give each task an output_uri of its own, for example with {{ run_id }}, and in "
            "mapped tasks with {{ ti.map_index }}. If that task will not run again, set overwrite=True or "
            f"delete {self._path}; the claim ends by itself at {until}"
        )
