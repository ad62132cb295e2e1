"""
Where a job keeps its files while it runs.

``<output_uri>/_job/<name>/`` holds all that another worker needs to go on with the job. If the output is a
directory of this machine, the job works right there. If it is an object store, the job works in a temporary
directory and copies whole files to the store; of a large job only the files in use are here.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.inference.claim import CLAIM_FILE, ClaimFile
from airflow_provider_openai_batches.inference.data.job import JOB_FILE, ROWS_FILE, Job
from airflow_provider_openai_batches.inference.data.repeats import REPEATS_FILE
from airflow_provider_openai_batches.inference.target import (
    FOLDER,
    check_writing,
    made_by_earlier_try,
    results_in,
)
from airflow_provider_openai_batches.inference.transfers import at_once
from airflow_provider_openai_batches.storage.scratch import Scratch
from airflow_provider_openai_batches.storage.uploads import put_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.inference.data.job import Shard
    from airflow_provider_openai_batches.inference.data.manifest import Manifest

_OWNER_ALONE = 0o700  # prompts and answers are in there
# What a job of a store may have on this machine before files that are also in the store are removed here.
SPARE_BYTES = 64 << 20


class Workspace:
    """
    The files of one task's job.

    :param output_uri: the directory of the results.
    :param owner: names the task; the files of other tasks in the same directory are left alone.
    :param task: whose names are in the claim on the directory.
    """

    is_local: bool
    """Whether the output is a directory of this machine."""
    uri: str
    """The output as others are told of it."""

    def __init__(
        self,
        output_uri: Any,
        owner: str,
        task: TaskIdentity | None = None,
    ) -> None:
        path = storage.as_path(output_uri)
        plain = storage.local(path)
        self.output = plain or path
        self.uri = storage.as_given(output_uri, self.output).rstrip("/")
        self._root = self.output / FOLDER
        self.is_local = plain is not None
        self._temporary: Scratch | None = None
        self._local: Path | None = None
        self._parked: Any = None
        self._has_parked = False
        self._found: list[str] | None = None  # what was in the directory of all jobs when this try began
        self._names: set[str] | None = None  # what is kept of this job, as far as it is known
        self._lock = threading.Lock()
        self.claim, self._task = ClaimFile(self._root, owner, task), task
        self.name = ""

    @property
    def kept(self) -> Any:
        """The directory that outlives this process."""
        return self._root / self.name

    @property
    def local(self) -> Path:
        """The directory on this machine; the same one where the output is on this machine."""
        if self._local is None:
            raise RuntimeError("No job was begun or opened here")
        return self._local

    def begin(self) -> Path:
        """Return an empty directory of this machine for the files of a new job."""
        begun = self._root / f".{self.claim.owner}-{uuid.uuid4().hex}"
        if self.is_local:
            self._local = begun
            storage.make_directory(self._root, _OWNER_ALONE)
            self._local.mkdir(mode=_OWNER_ALONE)
        else:
            self._local, self._parked = self._new_temporary(), begun
        return self._local

    def park(self, shard: Shard) -> None:
        """Move a complete request file to the store if there is too much on this machine."""
        if not self.is_local and self._is_full():
            directory = self.kept if self._parked is None else self._parked
            self._has_parked |= directory is self._parked
            storage.make_directory(directory)
            self._put(shard.file, directory)
            (self.local / shard.file).unlink()

    def keep(self, job: Job, digest: str, *, anew: bool = False) -> None:
        """
        Keep the new files; if an earlier try kept those of the same job, continue with those instead.

        :param digest: identifies the job, see :func:`.results.digests`.
        :param anew: replace what an earlier try kept.
        """
        self.name, found = self.name_of(digest), self._jobs()
        self._names = None if self.name in found else set()
        is_known = not anew and self.has(JOB_FILE)
        repeats = [REPEATS_FILE] if job.repeats else []
        if self.is_local:
            self._move(repeats if is_known else None)
        elif is_known:
            self.store(repeats)
            self._get(JOB_FILE)
        else:
            if self.name in found:
                self._remove_kept()
            # The last one says that all are there.
            self.store([ROWS_FILE, *files_of(job.shards), *repeats, JOB_FILE])
        known = Job.load(self.local) if is_known else None
        if known is not None and known.repeats != job.repeats:  # the task was changed between its tries
            msgspec.structs.replace(known, repeats=job.repeats).save(self.local)
            self.store([JOB_FILE])
        self._remove_others(found)
        self._parked = None

    def check_writing(self) -> None:
        """
        Check, before anything is spent, that the task may write, list and delete in the output directory.

        :raises InvalidInputError: if it may not.
        """
        found = check_writing(self.output)
        self._found = found if storage.is_object_store(self.output) else None

    def take(self, now: float, *, overwrite: bool) -> None:
        """Claim the directory, see :meth:`ClaimFile.take`."""
        is_free = self._found is not None and CLAIM_FILE not in self._found
        self.claim.take(now, overwrite=overwrite, is_free=is_free)

    def check_target(self, digest: str, *, overwrite: bool = False) -> Manifest | None:
        """Return the manifest of exactly this job, see :func:`results_in`."""
        return results_in(self.output, digest, overwrite=overwrite, task=self._task)

    def made_by_earlier_try(self, *, first_try: int, try_number: int) -> Manifest | None:
        """Return the manifest of an earlier try of this task, see :func:`made_by_earlier_try`."""
        if self._task is None:
            return None
        return made_by_earlier_try(self.output, self._task, first_try=first_try, try_number=try_number)

    def own_jobs(self) -> list[str]:
        """Return the names of the directories of this task's jobs."""
        return [name for name in storage.names_in(self._root) if name.startswith(f"{self.claim.owner}-")]

    def name_of(self, digest: str) -> str:
        """Return the name of a job's directory."""
        return f"{self.claim.owner}-{digest[:20]}"

    def open(self, name: str) -> bool:
        """Continue with the files that another process left; False if there are none."""
        if not storage.is_bare_name(name):
            return False
        self.name, self._names = name, None
        self._local = self.kept if self.is_local else self._new_temporary()
        try:
            self.fetch([JOB_FILE])
        except FileNotFoundError:
            return False
        return bool((self.local / JOB_FILE).exists())

    def has(self, name: str) -> bool:
        return bool((self.kept / name).exists()) if self.is_local else name in self.names()

    def names(self) -> set[str]:
        """Return the names of the files that are kept; a store is asked once, and then they are counted."""
        if self.is_local:
            return set(storage.names_in(self.kept))
        with self._lock:
            if self._names is None:
                self._names = set(storage.names_in(self.kept))
        return self._names

    def fetch(self, names: Iterable[str]) -> None:
        """Copy these files to this machine unless they are there."""
        if not self.is_local:
            for name in names:
                if not (self.local / name).exists():
                    self._get(name)

    def store(self, names: Iterable[str]) -> None:
        """Copy these files to where they are kept, several at a time; the last one when all are there."""
        wanted = list(names)
        if self.is_local or not wanted:
            return
        storage.make_directory(self.kept)
        *first, last = wanted
        if first:
            deque(at_once(self._store_one, first), maxlen=0)
        self._store_one(last)

    def _store_one(self, name: str) -> None:
        if (self.local / name).exists():
            self._put(name, self.kept)
        elif self._parked is not None:
            self._unpark(name)

    def drop(self, names: Iterable[str]) -> None:
        """Remove copies of files that are kept elsewhere, if there is too much on this machine."""
        if not self.is_local and self._is_full():
            for name in names:
                (self.local / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the files that were begun and are not to be kept."""
        if self._local is not None:
            shutil.rmtree(self._local, ignore_errors=True)
        if self._has_parked:
            storage.remove_all(self._parked)
        if self.claim.is_new:
            self.claim.release()
        self._remove_if_empty()

    def clear(self) -> None:
        """Remove all files of the job, which is complete."""
        if storage.is_object_store(self._root):
            kept = [f"{self.name}/{name}" for name in self.names()] if self.name else []
            storage.remove_all(self._root, kept + [CLAIM_FILE] * self.claim.is_held)
            self._names = set()
            return
        if self.name:
            self._remove_kept()
        self.claim.release()
        self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        if storage.is_object_store(self._root):
            return
        with suppress(OSError):  # another task works in the same place
            if not any(self._root.iterdir()):
                self._root.rmdir()

    def close(self) -> None:
        """Remove the temporary directory."""
        if self._temporary is not None:
            self._temporary.close()
            self._temporary = None

    def _new_temporary(self) -> Path:
        self.close()
        self._temporary = Scratch()
        return self._temporary.path

    def _move(self, wanted: list[str] | None) -> None:
        """Go on with the files that were kept, and only these of the new ones; None: with the new ones."""
        if wanted is None:
            storage.remove_all(self.kept)
            self.local.rename(self.kept)
        else:
            for name in wanted:
                (self.local / name).replace(self.kept / name)
            shutil.rmtree(self.local)
        self._local = self.kept

    def _is_full(self) -> bool:
        size = 0
        for path in self.local.iterdir():
            with suppress(FileNotFoundError):  # another thread has just completed or removed it
                size += path.stat().st_size
        return size > SPARE_BYTES

    def _put(self, name: str, directory: Any) -> None:
        put_file(directory.fs, str(self.local / name), f"{directory.path}/{name}")
        self._note(name, directory)

    def _note(self, name: str, directory: Any) -> None:
        """Note that the store has a file, if it is one of those that are kept."""
        if directory is not self._parked and self._names is not None:
            self._names.add(name)

    def _unpark(self, name: str) -> None:
        """Copy a request file within the store; where the store cannot, by way of this machine."""
        source, target = f"{self._parked.path}/{name}", f"{self.kept.path}/{name}"
        try:
            self.kept.fs.cp_file(source, target)
            self._note(name, self.kept)
        except RuntimeError:  # fsspec's word for a store that has no copy of its own
            self.kept.fs.get_file(source, str(self.local / name))
            self._put(name, self.kept)
            (self.local / name).unlink()

    def _get(self, name: str) -> None:
        self.kept.fs.get_file(f"{self.kept.path}/{name}", str(self.local / name))

    def _jobs(self) -> list[str]:
        """Return the names of the directories of jobs that earlier tries left."""
        return storage.names_in(self._root) if self.is_local or self._found is None else self._found

    def _remove_others(self, found: Iterable[str]) -> None:
        """Remove the files that earlier tries of this task kept for other rows."""
        begun = [self._parked.name] if self._has_parked else []
        for name in {*found, *begun}:
            is_own = name.lstrip(".").startswith(f"{self.claim.owner}-")
            if is_own and name not in {self.name, self._local and self._local.name}:
                storage.remove_all(self._root / name)
        self._has_parked = False

    def _remove_kept(self) -> None:
        storage.remove_all(self.kept, self._names)
        self._names = set()


def files_of(shards: Iterable[Shard]) -> list[str]:
    """Return the names of the files of shards."""
    return [name for shard in shards for name in (shard.file, shard.ids_file)]
