"""
Whose output directory it is: ``_job/owner.json`` names the one task that may write there.

Without it, two tasks with the same ``output_uri`` would delete each other's results. A task takes the claim
before it reads a row, looks again before each step, and gives it up when its results are complete. A later
try of the same task goes on with it. The claim of a task that was killed for good ends by itself.
"""

from __future__ import annotations

import inspect
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.compat.supervisor import task_state
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.idempotency import cancel
from airflow_provider_openai_batches.polling.wait import UNKNOWN_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity

CLAIM_FILE = "owner.json"
# Seconds that a claim holds beyond the last moment at which its batches may end: enough for another try.
LEASE = 86_400.0
# Seconds after which a task looks whether another one, which had found no claim either, also wrote one.
SETTLE_SECONDS = 1.0
# For so many seconds a task that has seen its claim does not look again.
SEEN_SECONDS = 30.0
Moment: TypeAlias = Annotated[
    float, msgspec.Meta(ge=0, le=253_402_300_799)
]  # Unix seconds up to the year 9999
_NAMES = ("dag_id", "run_id", "task_id", "map_index")


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the file says.

    :param owner: the first part of the task's key.
    :param since: Unix seconds; so is ``until``, when the claim ends by itself.
    """

    owner: str
    since: Moment
    until: Moment
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    deployment_id: str = ""

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
    :param sleep: waits for so many seconds.
    """

    def __init__(
        self,
        directory: storage.AnyPath,
        owner: str,
        task: TaskIdentity | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory, self._path, self._task = directory, directory / CLAIM_FILE, task
        self.owner = owner
        given = {} if task is None else {name: getattr(task, name) for name in (*_NAMES, "deployment_id")}
        self._mine = Claim(owner=owner, since=0, until=0, **given)
        self._sleep = sleep
        self.is_new = False
        self._seen: Claim | None = None
        self._seen_at = float("-inf")

    def take(self, now: float, *, overwrite: bool = False, is_free: bool = False) -> None:
        """
        Claim the directory, or go on with a claim that this task has.

        :param is_free: whether a listing of a moment ago shows no claim.
        :param overwrite: replace the claim of another task, unless that task is known to be at work or is
            another mapped instance of this one.
        :raises InvalidInputError: if the directory belongs to another task.
        """
        # As for batches that are submitted soon, so that the claim need not be written again then.
        mine = msgspec.structs.replace(self._mine, since=now, until=now + UNKNOWN_WINDOW + LEASE)
        self.is_new = self._create(mine, is_free=is_free)
        if self.is_new:
            self._seen, self._seen_at = mine, now
            return
        other = self._read()
        if other is not None and self._is_mine(other):
            return
        if other is not None and now <= other.until:
            is_over = self._is_over(other)
            may_replace = overwrite and not self._is_other_instance(other)
            if is_over is False or not (is_over or may_replace):
                raise self._refusal(other)
        self._write(mine)
        self.is_new = True
        self._sleep(SETTLE_SECONDS)
        self.check()

    def check(self) -> Claim:
        """
        Return the claim of this task.

        :raises InvalidInputError: if another task has the directory now, or nobody has.
        """
        found = self._read()
        if found is None or not self._is_mine(found):
            raise self._refusal(found)
        return found

    def first_identity(self) -> TaskIdentity | None:
        """Return the task as it claimed the directory, if its deployment may have gone by that id."""
        found = self._read()
        if self._task is None or found is None or not self._task.may_have_been(found.deployment_id):
            return None
        is_same = all(getattr(found, name) == getattr(self._task, name) for name in _NAMES)
        return msgspec.structs.replace(self._task, deployment_id=found.deployment_id) if is_same else None

    @property
    def is_there(self) -> bool:
        self._forget_listings()
        return storage.read_bytes(self._path) is not None

    def extend(self, now: float, until: float, if_gone: Callable[[], object] = lambda: None) -> None:
        """
        Hold the directory until then and a day longer.

        :param if_gone: is called if nobody has the directory any more, before it is claimed anew.
        :raises InvalidInputError: if another task has it now.
        """
        is_fresh = 0 <= now - self._seen_at < SEEN_SECONDS and not self._is_on_disk
        found = self._seen if is_fresh else self._read()
        if found is None:
            if_gone()
            found = msgspec.structs.replace(self._mine, since=now)
        if not self._is_mine(found):
            raise self._refusal(found)
        if found.until < until:
            found = msgspec.structs.replace(found, until=until + LEASE)
            self._write(found)
        self._seen, self._seen_at = found, now

    def release(self) -> None:
        """Give the directory up, if it is this task's."""
        if self.is_held:
            storage.remove(self._path)

    @property
    def is_held(self) -> bool:
        """Whether the directory is this task's, as the file says now."""
        found = self._read()
        return found is not None and self._is_mine(found)

    @property
    def _is_on_disk(self) -> bool:
        return storage.local(self._path) is not None

    def _is_mine(self, claim: Claim) -> bool:
        return claim.owner == self.owner

    def _is_other_instance(self, claim: Claim) -> bool:
        differing = [name for name in _NAMES if getattr(claim, name) != getattr(self._mine, name)]
        return differing == ["map_index"]

    def _forget_listings(self) -> None:
        """Make a store look again: its client keeps listings, and other workers write there too."""
        if not self._is_on_disk:
            self._path.fs.invalidate_cache(self._directory.path)

    def _read(self) -> Claim | None:
        self._forget_listings()
        trouble = "is not the claim of a task: {}. Delete it if no task writes to this directory"
        try:
            return storage.read_json(self._path, Claim, trouble)
        except FileNotFoundError:  # given up a moment ago
            return None

    def _write(self, claim: Claim) -> None:
        storage.write_json(self._path, claim)

    def _create(self, claim: Claim, *, is_free: bool) -> bool:
        """Write the claim unless there is one; return whether it was written."""
        content = msgspec.json.encode(claim)
        try:
            if self._is_on_disk:
                storage.make_directory(self._directory, mode=0o700)
                self._create_on_disk(content)
            else:
                self._create_in_store(content, is_free=is_free)
        except FileExistsError:
            return False
        return True

    def _create_on_disk(self, content: bytes) -> None:
        handle = self._path.open("xb")
        try:
            with handle as file:
                file.write(content)
        except BaseException:  # half a claim would be nobody's, and refuse each later try
            self._path.unlink()
            raise

    def _create_in_store(self, content: bytes, *, is_free: bool) -> None:
        fs, path = self._path.fs, self._path.path
        storage.make_directory(self._directory)
        if not is_free and self.is_there:
            raise FileExistsError(path)
        if _can_create(fs):
            try:
                fs.pipe_file(path, content, mode="create")
            except Exception:  # noqa: BLE001 - for a file that is there, each store has an error of its own
                if self.is_there:
                    raise FileExistsError(path) from None
            else:
                return
        fs.pipe_file(path, content)
        self._sleep(SETTLE_SECONDS)
        self.check()

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


def _can_create(fs: Any) -> bool:
    """Whether a store's client has a way of its own to write a file only if there is none."""
    method = getattr(type(fs), "_pipe_file", None) or type(fs).pipe_file
    return "mode" in inspect.signature(method).parameters and method.__module__ != "fsspec.spec"


def names_of(task: TaskIdentity) -> dict[str, str]:
    """Return the names of a task for a file that people read."""
    return {name: str(getattr(task, name)) for name in _NAMES}
