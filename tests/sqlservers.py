"""PostgreSQL and MariaDB servers on loopback, each with a directory of its own that goes away with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACES = ("/usr/lib/postgresql", "/usr/sbin", "/usr/bin", "/usr/local/bin")
STARTS_WITHIN = 60.0


def program(name: str) -> str | None:
    """Where a program of a server is; Debian does not put those of PostgreSQL into the path."""
    found = [shutil.which(name) or "", *map(str, sorted(Path(PLACES[0]).glob(f"*/bin/{name}"), reverse=True))]
    return next(filter(None, [*found, *(shutil.which(name, path=place) or "" for place in PLACES)]), None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Server(ABC):
    """
    A server that runs until its context ends.

    Neither of them runs as root, so root starts them as ``user``.
    """

    needs: Sequence[str] = ()
    user = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="database-"))
        self.folder.chmod(0o700)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> list[str]:
        """The programs that are not installed."""
        return [name for name in cls.needs if program(name) is None]

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user, self.user)
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self._as_user())
        end = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            said = (self.folder / "log").read_text()[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server at once, as a power failure does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=60)

    def _answers(self) -> bool:
        with socket.socket() as one:
            one.settimeout(1)
            return one.connect_ex(("127.0.0.1", self.port)) == 0 and self.is_ready()

    def _as_user(self) -> dict[str, Any]:
        return {"user": self.user, "group": self.user, "extra_groups": []} if os.geteuid() == 0 else {}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, **self._as_user()
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    @abstractmethod
    def prepare(self) -> None:
        """Make what the first start needs."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it takes statements."""

    @abstractmethod
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to it."""


class PostgresServer(Server):
    """With ``is_durable`` it waits for the disk, as a real one does."""

    needs = ("initdb", "postgres", "pg_isready")
    user = "postgres"

    def __init__(self, *, is_durable: bool = False) -> None:
        super().__init__()
        self._is_durable = is_durable

    def prepare(self) -> None:
        data = str(self.folder / "data")
        self.run(
            str(program("initdb")), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"
        )

    def command(self) -> list[str]:
        quick = [] if self._is_durable else ["-c", "fsync=off"]
        place = [
            "-D",
            str(self.folder / "data"),
            "-k",
            str(self.folder),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        return [str(program("postgres")), *place, *quick]

    def is_ready(self) -> bool:
        command = [str(program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def connection(self) -> dict[str, Any]:
        return {
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": self.port,
            "login": "postgres",
            "schema": "postgres",
        }


class MariaDBServer(Server):
    needs = ("mariadb-install-db", "mariadbd", "mariadb")
    user = "mysql"

    def prepare(self) -> None:
        data = f"--datadir={self.folder / 'data'}"
        install = [str(program("mariadb-install-db")), "--no-defaults", data]
        self.run(*install, "--auth-root-authentication-method=normal", "--skip-test-db")

    def command(self) -> list[str]:
        return [
            str(program("mariadbd")),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-flush-log-at-trx-commit=2",
        ]

    def is_ready(self) -> bool:
        sql = "CREATE DATABASE IF NOT EXISTS warehouse CHARACTER SET utf8mb4"
        place = ["--no-defaults", "-h", "127.0.0.1", "-P", str(self.port), "-u", "root"]
        command = [str(program("mariadb")), *place, "-e", sql]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def connection(self) -> dict[str, Any]:
        return {
            "conn_type": "mysql",
            "host": "127.0.0.1",
            "port": self.port,
            "login": "root",
            "schema": "warehouse",
        }
