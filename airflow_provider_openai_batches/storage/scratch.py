"""Temporary directories, which the next process removes if theirs was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Self

SCRATCH_PREFIX = "openai-batches-scratch-"
_LOCK_FILE = ".in-use"
_YOUNG_SECONDS = 60.0  # a temporary directory has its lock by then


class Scratch:
    """
    An empty temporary directory, which ``close`` removes; a context manager.

    If its process was killed, the next one that needs such a directory on this machine removes it. A lock in
    the directory says that its process lives: the system gives it up however the process ends.
    """

    def __init__(self) -> None:
        remove_left()
        self.path = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
        self._lock = os.open(self.path / _LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_left() -> None:
    """Remove what killed processes of this user left."""
    for directory in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        try:
            found = directory.lstat()
            is_young = time.time() - found.st_mtime < _YOUNG_SECONDS
            if found.st_uid == os.getuid() and not is_young and not _is_in_use(directory):
                shutil.rmtree(directory, ignore_errors=True)  # does nothing to a link
        except OSError:  # another process is removing it
            continue


def _is_in_use(directory: Path) -> bool:
    lock = directory / _LOCK_FILE
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
