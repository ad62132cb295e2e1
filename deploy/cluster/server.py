"""A server on loopback that can be killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
from airflow_stack import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOST = "127.0.0.1"


class Server(ABC):
    """
    A process that listens on a port of its own, and can be killed and started again there.

    :param name: of its directory and its log, below ``home``.
    """

    stop_signal = signal.SIGTERM
    user: str | None = None

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        (self.port,) = free_ports(1)
        self.folder = home / name
        self.folder.mkdir(parents=True)
        self.log = home / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the program and its arguments."""

    def start(self, seconds: float = 60) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                user=self.user,
            )
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{self.name} did not start; the end of its log:\n{tail}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        """End it and its children at once, as the loss of a machine would."""
        assert self._process
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            family = [process, *process.children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=10)
        self._process.wait(timeout=10)

    def stop(self) -> None:
        """End it as it wishes, and after ten seconds at once."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
