"""An environment that `make test-wheel` made, with the wheel in it and without this checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from airflow_stack import free_ports, settings

ENVIRONMENT = Path(os.environ.get("WHEEL", ""))
INHERITED = {"PATH", "HOME", "LANG"}


class Installation(NamedTuple):
    """
    An Airflow with the wheel.

    :ivar home: its home; all its processes run there.
    :ivar environment: all their variables.
    :ivar url: where its API server listens once it is started.
    """

    home: Path
    environment: dict[str, str]
    url: str

    @classmethod
    def at(cls, home: Path) -> Installation:
        url, execution_url = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        inherited = {name: value for name, value in os.environ.items() if name in INHERITED}
        made = cls(home, {**inherited, **settings(home, home / "dags", url, execution_url)}, url)
        (home / "dags").mkdir()
        made.airflow("db", "migrate")
        return made

    def run(self, *arguments: str, **more: str) -> str:
        """Run its Python, with more variables, and return what it prints."""
        done = subprocess.run(
            self._command(*arguments),
            cwd=self.home,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def airflow(self, *arguments: str) -> str:
        return self.run("-m", "airflow", *arguments)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start its Python; what it prints can be read."""
        return subprocess.Popen(
            self._command(*arguments),
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _command(self, *arguments: str) -> list[str]:
        return [str(ENVIRONMENT / "bin" / "python"), "-W", "ignore", *arguments]
