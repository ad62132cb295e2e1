"""What the benchmarks share: the other providers' environments, which are made once, and the dev server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[1]
AIRFLOW = "3.3.2"
# With PYTHONDONTWRITEBYTECODE, Python would compile this checkout's modules in each run, but not those of an
# installed package.
NOT_PASSED_ON = ("AIRFLOW", "OPENAI", "PYTHONDONTWRITEBYTECODE")


class Side(NamedTuple):
    """
    One of the providers.

    :param name: its name in ``waits_side.py``.
    :param title: its name in the table.
    :param packages: what is installed besides Airflow; empty for this checkout, which uses the environment
        that is running.
    """

    name: str
    title: str
    packages: tuple[str, ...] = ()


OURS = Side("ours", "this provider")
OFFICIAL = Side(
    "official", "apache-airflow-providers-openai 2.2.0", ("apache-airflow-providers-openai==2.2.0", "openai")
)
COMMON_AI = Side(
    "common_ai",
    "apache-airflow-providers-common-ai 1.0.0",
    ("apache-airflow-providers-common-ai[openai]==1.0.0",),
)


def python_of(side: Side, folder: Path) -> Path:
    """Return the interpreter of a side's environment, and make the environment if it is not there."""
    if not side.packages:
        return Path(sys.executable)
    wanted = [f"apache-airflow=={AIRFLOW}", *side.packages]
    home = folder / f"{side.name}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        print(f"Installing {side.title} into {home} …", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        constraints = CHECKOUT / "constraints" / f"airflow-{AIRFLOW}.txt"
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*install, "--constraint", str(constraints), *wanted], check=True)
        done.touch()
    return python


def environment_of(home: Path | str) -> dict[str, str]:
    """The variables of a side's process, with an Airflow home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
    return {**kept, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}


@contextlib.contextmanager
def dev_server(*options: str) -> Iterator[str]:
    """Start a dev server in a process of its own, and yield its base URL."""
    command = [sys.executable, "-m", "airflow_provider_openai_batches.devserver", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout
    try:
        yield next(word for word in process.stdout.readline().split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait()
