"""
Where a job keeps its files: for good below the output, and on this machine while it works on them.

``<output_uri>/_job/<name>/`` holds all that another worker needs to go on. Where the output is a directory of
this machine both places are one; where it is a store, files are worked on in a temporary directory and put
into the store whole.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.inference.data.job import JOB_FILE
from airflow_provider_openai_batches.storage import local

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = "_job"


class Workplace:
    """
    The files of one task's job.

    :param output_uri: the directory of the results.
    :param owner: whose job it is; jobs of others in the same directory are left alone.
    """

    def __init__(self, output_uri: Any, owner: str) -> None:
        path = storage.as_path(output_uri)
        plain = local(path)
        self.output = plain or path
        self._root = self.output / FOLDER
        self._owner = owner
        self._is_local = plain is not None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._here: Path | None = None
        self.name = ""

    @property
    def home(self) -> Any:
        """Where the files are for good."""
        return self._root / self.name

    @property
    def here(self) -> Path:
        """Where the files are on this machine."""
        if self._here is None:
            raise RuntimeError("No job was begun or opened here")
        return self._here

    def begin(self) -> Path:
        """Return an empty directory of this machine, to write the files of a new job into."""
        if self._is_local:
            self._here = self._root / f".{self._owner}-{uuid.uuid4().hex}"
            self._here.mkdir(parents=True)
        else:
            self._here = self._scratch()
        return self._here

    def keep(self, digest: str, names: Iterable[str], *, anew: bool = False) -> None:
        """
        Make the new files those of the job, unless the job is there already: then go on with it.

        :param digest: of the job.
        :param names: of the new files, ``job.json`` left out.
        :param anew: begin again although it is there.
        """
        self.name = self.name_of(digest)
        known = not anew and (self.home / JOB_FILE).exists()
        if self._is_local:
            self._settle(known=known)
        elif known:
            self._get(JOB_FILE)
        else:
            self._remove(self.home)
            self.store([*names, JOB_FILE])  # the last one says that all are there
        self._remove_others()

    def name_of(self, digest: str) -> str:
        """The name of a job's directory."""
        return f"{self._owner}-{digest[:20]}"

    def open(self, name: str) -> bool:
        """Go on with the files that another process left; False if there are none."""
        self.name = name
        if not (self.home / JOB_FILE).exists():
            return False
        self._here = self.home if self._is_local else self._scratch()
        self.fetch([JOB_FILE])
        return True

    def has(self, name: str) -> bool:
        return bool((self.home / name).exists())

    def fetch(self, names: Iterable[str]) -> None:
        """Have these files on this machine."""
        if not self._is_local:
            for name in names:
                if not (self.here / name).exists():
                    self._get(name)

    def store(self, names: Iterable[str]) -> None:
        """Keep these files for good."""
        if not self._is_local:
            for name in names:
                self.home.mkdir(parents=True, exist_ok=True)
                self.home.fs.put_file(str(self.here / name), f"{self.home.path}/{name}")

    def discard(self) -> None:
        """Remove what was begun and is not to be kept."""
        if self._here is not None:
            shutil.rmtree(self._here, ignore_errors=True)

    def clear(self) -> None:
        """The job is complete: remove all its files."""
        self._remove(self.home)
        try:
            if not any(self._root.iterdir()):
                self._root.rmdir()
        except OSError:
            pass  # a store has no empty directories, or another task is at work beside this one

    def close(self) -> None:
        """Remove what is on this machine only."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _scratch(self) -> Path:
        self.close()
        self._temporary = tempfile.TemporaryDirectory(prefix="openai-batches-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    def _settle(self, *, known: bool) -> None:
        if known:
            shutil.rmtree(self.here)
        else:
            self._remove(self.home)
            self.here.rename(self.home)
        self._here = self.home

    def _get(self, name: str) -> None:
        self.home.fs.get_file(f"{self.home.path}/{name}", str(self.here / name))

    def _remove_others(self) -> None:
        """An earlier try's files for other rows are of no use any more."""
        for path in list(self._root.iterdir()):
            if path.name.lstrip(".").startswith(f"{self._owner}-") and path.name != self.name:
                self._remove(path)

    def _remove(self, directory: Any) -> None:
        if not directory.exists():
            return
        if self._is_local:
            shutil.rmtree(directory)
        else:
            directory.fs.rm(directory.path, recursive=True)
