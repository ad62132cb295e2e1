"""
A job's temporary directory on a worker, which the next job there removes if its process was killed.

A lock in the directory says that its process lives; the system gives it up however the process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "openai-batches-job-"
_LOCK_FILE = "in-use.lock"
# Seconds that a directory has to get its lock.
_YOUNG = 60.0


class Scratch:
    """An empty temporary directory; ``close`` removes it."""

    def __init__(self) -> None:
        remove_left()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path / _LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_left() -> None:
    """Remove what killed processes left; what cannot be removed, such as another user's, is left alone."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            is_young = time.time() - directory.stat().st_mtime < _YOUNG
            if not directory.is_symlink() and not is_young and not _is_in_use(directory):
                shutil.rmtree(directory, ignore_errors=True)
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
