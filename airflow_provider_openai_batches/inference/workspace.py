"""
Where a job keeps its files while it runs.

``<output_uri>/_job/<name>/`` holds all that another worker needs to go on with the job. If the output is a
directory of this machine, the job works right there. If it is an object store, the job works in a temporary
directory and copies whole files to the store; of a large job only the files in use are here.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.claim import ClaimFile, names_of
from airflow_provider_openai_batches.inference.data.job import JOB_FILE, ROWS_FILE, Job
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, Manifest
from airflow_provider_openai_batches.inference.data.repeats import REPEATS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity
    from airflow_provider_openai_batches.inference.data.job import Shard

FOLDER = "_job"
_PROBE_FILE = ".airflow-write-check-"
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

    def __init__(
        self,
        output_uri: Any,
        owner: str,
        task: TaskIdentity | None = None,
    ) -> None:
        path = storage.as_path(output_uri)
        plain = storage.local(path)
        self.output = plain or path
        self._root = self.output / FOLDER
        self.is_local = plain is not None
        self._temporary: storage.Scratch | None = None
        self._local: Path | None = None
        self._parked: Any = None
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
            self._root.mkdir(parents=True, exist_ok=True, mode=_OWNER_ALONE)
            self._local.mkdir(mode=_OWNER_ALONE)
        else:
            self._local, self._parked = self._new_temporary(), begun
        return self._local

    def park(self, shard: Shard) -> None:
        """Move a complete request file to the store if there is too much on this machine."""
        if not self.is_local and self._is_full():
            directory = self.kept if self._parked is None else self._parked
            directory.mkdir(parents=True, exist_ok=True)
            self._put(shard.file, directory)
            (self.local / shard.file).unlink()

    def keep(self, job: Job, digest: str, *, anew: bool = False) -> None:
        """
        Keep the new files; if an earlier try kept those of the same job, continue with those instead.

        :param digest: identifies the job, see :func:`.results.digests`.
        :param anew: replace what an earlier try kept.
        """
        self.name = self.name_of(digest)
        is_known = not anew and (self.kept / JOB_FILE).exists()
        repeats = [REPEATS_FILE] if job.repeats else []
        if self.is_local:
            self._move(repeats if is_known else None)
        elif is_known:
            self.store(repeats)
            self._get(JOB_FILE)
        else:
            self._remove(self.kept)
            # The last one says that all are there.
            self.store([ROWS_FILE, *files_of(job.shards), *repeats, JOB_FILE])
        known = Job.load(self.local) if is_known else None
        if known is not None and known.repeats != job.repeats:  # the task was changed between its tries
            msgspec.structs.replace(known, repeats=job.repeats).save(self.local)
            self.store([JOB_FILE])
        self._remove_others()
        self._parked = None

    def check_target(self, digest: str, *, overwrite: bool = False) -> Manifest | None:
        """Return the manifest of exactly this job, see :func:`check_target`."""
        return check_target(self.output, digest, overwrite=overwrite, task=self._task)

    def name_of(self, digest: str) -> str:
        """Return the name of a job's directory."""
        return f"{self.claim.owner}-{digest[:20]}"

    def open(self, name: str) -> bool:
        """Continue with the files that another process left; False if there are none."""
        if not storage.is_bare_name(name):
            return False
        self.name = name
        if not (self.kept / JOB_FILE).exists():
            return False
        self._local = self.kept if self.is_local else self._new_temporary()
        self.fetch([JOB_FILE])
        return True

    def has(self, name: str) -> bool:
        return bool((self.kept / name).exists())

    def fetch(self, names: Iterable[str]) -> None:
        """Copy these files to this machine unless they are there."""
        if not self.is_local:
            for name in names:
                if not (self.local / name).exists():
                    self._get(name)

    def store(self, names: Iterable[str]) -> None:
        """Copy these files to where they are kept."""
        if not self.is_local:
            for name in names:
                self.kept.mkdir(parents=True, exist_ok=True)
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
        if self._parked is not None:
            self._remove(self._parked)
        if self.claim.is_new:
            self.claim.release()
        self._remove_if_empty()

    def clear(self) -> None:
        """Remove all files of the job, which is complete."""
        if self.name:
            self._remove(self.kept)
        self.claim.release()
        self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        try:
            if not any(self._root.iterdir()):
                self._root.rmdir()
        except OSError:
            pass  # a store has no empty directories, or another task works in the same place

    def close(self) -> None:
        """Remove the temporary directory."""
        if self._temporary is not None:
            self._temporary.close()
            self._temporary = None

    def _new_temporary(self) -> Path:
        self.close()
        self._temporary = storage.Scratch()
        return self._temporary.path

    def _move(self, wanted: list[str] | None) -> None:
        """Go on with the files that were kept, and only these of the new ones; None: with the new ones."""
        if wanted is None:
            self._remove(self.kept)
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
        directory.fs.put_file(str(self.local / name), f"{directory.path}/{name}")

    def _unpark(self, name: str) -> None:
        """Copy a request file within the store; where the store cannot, by way of this machine."""
        source, target = f"{self._parked.path}/{name}", f"{self.kept.path}/{name}"
        try:
            self.kept.fs.cp_file(source, target)
        except RuntimeError:  # fsspec's word for a store that has no copy of its own
            self.kept.fs.get_file(source, str(self.local / name))
            self._put(name, self.kept)
            (self.local / name).unlink()

    def _get(self, name: str) -> None:
        self.kept.fs.get_file(f"{self.kept.path}/{name}", str(self.local / name))

    def _remove_others(self) -> None:
        """Remove the files that earlier tries of this task kept for other rows."""
        for path in list(self._root.iterdir()):
            if path.name.lstrip(".").startswith(f"{self.claim.owner}-") and path.name != self.name:
                self._remove(path)

    def _remove(self, directory: Any) -> None:
        if not directory.exists():
            return
        if self.is_local:
            shutil.rmtree(directory)
        else:
            directory.fs.rm(directory.path, recursive=True)


def files_of(shards: Iterable[Shard]) -> list[str]:
    """Return the names of the files of shards."""
    return [name for shard in shards for name in (shard.file, shard.ids_file)]


def check_target(
    directory: storage.AnyPath,
    digest: str | None = None,
    *,
    overwrite: bool = False,
    task: TaskIdentity | None = None,
) -> Manifest | None:
    """
    Check, before anything is spent, that results can be written to the directory and replace no others.

    :param digest: the digest of the results; without it only writing is checked.
    :param task: who asks; it does not replace the results of its own run's other mapped instances.
    :return: the manifest if the directory holds exactly this job, complete.
    :raises InvalidInputError: if nothing can be written there, or the directory holds another job's results
        and ``overwrite`` is False.
    """
    directory = storage.as_path(directory)
    _check_writing(directory)
    if digest is None:
        return None
    try:
        manifest = storage.read_json(directory / MANIFEST_FILE, Manifest, "is not the manifest of a job: {}")
    except InvalidInputError:
        if overwrite:
            return None
        raise
    if manifest is None or manifest.digest == digest:
        return manifest
    if task is not None and _is_other_instance(task, manifest.made_by):
        raise InvalidInputError(
            f"{directory} holds the results of instance {manifest.made_by['map_index']} of this mapped task "
            f"({manifest.rows:,} rows). Give each instance an output_uri of its own, for example with "
            "{{ ti.map_index }} at its end"
        )
    if not overwrite:
        raise InvalidInputError(
            f"{directory} holds the results of another job ({manifest.rows:,} rows, {manifest.endpoint}): "
            "choose another output_uri, for example with {{ run_id }}, and in mapped tasks with "
            "{{ ti.map_index }}, or set overwrite=True"
        )
    return None


def _is_other_instance(task: TaskIdentity, made_by: dict[str, str]) -> bool:
    """Whether another mapped instance of this task in this run made the results."""
    mine = names_of(task)
    return task.map_index >= 0 and [name for name in mine if made_by.get(name) != mine[name]] == ["map_index"]


def _check_writing(directory: storage.AnyPath) -> None:
    probe = directory / f"{_PROBE_FILE}{uuid.uuid4().hex}"  # another task may check at the same time
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with storage.open_binary(probe, "wb") as handle:
            handle.write(b"can be deleted\n")
        probe.unlink()
    except Exception as error:  # every store raises its own
        raise InvalidInputError(f"The output directory {directory} cannot be written: {error}") from error
