"""DAGs in Airflow's own test runner, in a process that stays: see dag_runner.py."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RUNNER = Path(__file__).with_name("dag_runner.py")


@dataclass(frozen=True)
class DagRuns:
    """Runs DAGs one after the other."""

    process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def started(cls, environment: Mapping[str, str]) -> Iterator[DagRuns]:
        """Start the process; Airflow's database is there."""
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", str(RUNNER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            yield cls(process)
            process.kill()

    def run(
        self, path: Path, environment: Mapping[str, str], conf: Mapping[str, object] | None = None
    ) -> tuple[dict[str, str], str]:
        """Return the final state of each task, none if the DAGs could not be run; and all that was said."""
        assert self.process.stdin
        assert self.process.stdout
        job = {"path": str(path), "conf": conf or {}, "environment": dict(environment)}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        said: list[str] = []
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT ")), "".join(said)
            said.append(line)
        raise AssertionError("".join(said)[-3000:])
