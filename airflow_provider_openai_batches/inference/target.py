"""Whether a directory takes results, and has none of another job: asked before anything is spent."""

from __future__ import annotations

import errno
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.exceptions import InvalidInputError, OpenAIBatchesError
from airflow_provider_openai_batches.inference.claim import names_of
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_openai_batches.idempotency.keys import TaskIdentity

FOLDER = "_job"
TRY = "try_number"  # in a manifest's made_by
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_PROBE_FILE = ".airflow-write-check-"


def explain(error: BaseException | None, directory: storage.AnyPath) -> None:
    """
    Say what is safe after an error of the store or the disk that comes while batches may run.

    :raises OpenAIBatchesError: in place of such an error.
    """
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in _FULL):
        raise OpenAIBatchesError(
            f"{directory} or this worker's disk cannot be used now: {error}. Nothing is lost: batches that "
            "were submitted run on, and another try continues from here and pays nothing twice."
        ) from error


@contextmanager
def refuses(directory: storage.AnyPath) -> Iterator[None]:
    """Take missing rights for bad input, as long as nothing was sent."""
    try:
        yield
    except PermissionError as error:
        raise InvalidInputError(
            f"{directory}, or what the task reads, cannot be read: {error}. Nothing was sent"
        ) from error


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
    check_writing(directory)
    return None if digest is None else results_in(directory, digest, overwrite=overwrite, task=task)


def results_in(
    directory: storage.AnyPath, digest: str, *, overwrite: bool = False, task: TaskIdentity | None = None
) -> Manifest | None:
    """Return the manifest of the job if the directory holds it, see :func:`check_target`."""
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


def check_folders(directory: storage.AnyPath, folders: Iterable[str]) -> None:
    """
    Make sure that no directory for a part of the results is that of another job.

    :raises InvalidInputError: naming it.
    """
    for folder in set(folders).intersection(storage.names_in(directory)):
        if {MANIFEST_FILE, FOLDER}.intersection(storage.names_in(directory / folder)):
            raise InvalidInputError(
                f"{directory / folder} is the directory of another job: choose another output_uri. Nothing "
                "was sent"
            )


def made_by_earlier_try(
    directory: storage.AnyPath, task: TaskIdentity, *, first_try: int, try_number: int
) -> Manifest | None:
    """
    Return the manifest in the directory if an earlier try of this task wrote it, since the task was cleared.

    The rows need not be read again to know that the job is done: they may have changed since then, not least
    by the results themselves.
    """
    try:
        manifest = storage.read_json(directory / MANIFEST_FILE, Manifest, "is not the manifest of a job: {}")
    except InvalidInputError:
        return None
    mine = names_of(task)
    if manifest is None or {name: manifest.made_by.get(name) for name in mine} != mine:
        return None
    made_in = manifest.made_by.get(TRY, "")
    return manifest if made_in.isdecimal() and first_try <= int(made_in) < try_number else None


def _is_other_instance(task: TaskIdentity, made_by: dict[str, str]) -> bool:
    """Whether another mapped instance of this task in this run made the results."""
    mine = names_of(task)
    return task.map_index >= 0 and [name for name in mine if made_by.get(name) != mine[name]] == ["map_index"]


def check_writing(directory: storage.AnyPath) -> list[str]:
    """Write a file, list what is beside it, delete it, and return the names of the other files."""
    is_store = storage.is_object_store(directory)
    place = directory / FOLDER if is_store else directory
    name = f"{_PROBE_FILE}{uuid.uuid4().hex}"  # another task may check at the same time
    doing = "written"
    try:
        storage.make_directory(place)
        with storage.open_binary(place / name, "wb") as handle:
            handle.write(b"can be deleted\n")
        doing = "listed"
        found = [each for each in storage.names_in(place) if each != name]
        doing = "cleared: files there cannot be deleted"
        storage.remove(place / name)
    except Exception as error:  # every store raises its own
        raise InvalidInputError(f"The output directory {directory} cannot be {doing}: {error}") from error
    return found
