"""What the tasks take while they run: memory, and space for temporary files."""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import WORKERS

if TYPE_CHECKING:
    from typing import Self

    from cluster import Cluster

INTERVAL = 0.25  # seconds
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class Gauges:
    """
    Reads them four times a second, from its start to its end.

    :ivar memory: the most bytes that one task process ever had in memory, as Linux counts it.
    :ivar scratch: the most bytes that the temporary files of one worker had at a time.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.memory = self.scratch = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(INTERVAL):
            self.read()

    def read(self) -> None:
        for worker in WORKERS:
            peaks = [_peak_of(process.pid) for process in self._cluster.tasks_of(worker)]
            self.memory = max(self.memory, *peaks, 0)
            self.scratch = max(self.scratch, _size_of(self._cluster.scratch(worker)))


def _peak_of(pid: int) -> int:
    with suppress(OSError):
        found = PEAK.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"))
        return int(found[1]) * 1024 if found else 0
    return 0


def _size_of(folder: Path) -> int:
    """The space of all files below a folder; those that vanish meanwhile count nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += (Path(place) / name).lstat().st_blocks * 512
    return size
