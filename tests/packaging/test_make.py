"""Which Python `make` takes, and into which environment. Stand-ins for Pythons say how they were called."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from import_graph import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = ("echo", "find", "rm", "sh", "test", "touch")
NEEDED = (
    "LICENSE",
    "README.md",
    "constraints/airflow-3.3.2.txt",
    "constraints/cluster-3.3.2.txt",
    "constraints/docs.txt",
    "constraints/stores-3.3.2.txt",
    "deploy/cluster/requirements.txt",
    "docs/requirements.txt",
    "pyproject.toml",
)
STAND_IN = """#!/bin/sh
case "$*" in
  -V) echo Python {version}.9 ;;
  -c*sys.version_info*) echo {version} ;;
  -m*) echo "{name} $*" ;;
esac
exit {code}
"""


class Machine:
    """A home and a path on which there are no other Pythons than the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.home, self.path = folder / "home", folder / "bin"
        self.home.mkdir()
        self.path.mkdir()
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool) or "")

    def install(self, version: str, *, place: Path | None = None, runs: bool = True) -> Path:
        python = (place or self.path) / f"python{version}"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(STAND_IN.format(version=version, name=python.name, code=0 if runs else 127))
        python.chmod(0o755)
        return python

    def install_in_pyenv(self, version: str) -> Path:
        """Installed, but not switched on: what stands in the path says so, and fails."""
        self.install(version, runs=False)
        return self.install(version, place=self.home / f".pyenv/versions/{version}.9/bin")

    def check_out(self) -> None:
        """Files that targets need before they make an environment; the home stands for the checkout."""
        for name in NEEDED:
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).touch()

    def make(self, *arguments: str, target: str = "environment", **variables: str) -> str:
        """What make says as it makes a target, which is the environment that all this leads to."""
        environment = {"PATH": str(self.path), "HOME": str(self.home), **variables}
        make = [shutil.which("make") or "make", "--silent", "--directory", str(self.home)]
        command = [*make, f"--makefile={ROOT / 'Makefile'}", target, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_newest_python_is_taken(machine: Machine) -> None:
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        machine.install(version)
    said = machine.make()
    assert "Making .venv with Python 3.13.9, python3.13 ..." in said
    assert "python3.13 -m venv --clear .venv\n" in said


def test_one_of_pyenv_that_is_not_switched_on_is_found(machine: Machine) -> None:
    machine.install("3.11")
    python = machine.install_in_pyenv("3.12")
    assert f"Making .venv with Python 3.12.9, {python} ..." in machine.make()


def test_a_python_that_was_asked_for_is_found_there_too(machine: Machine) -> None:
    machine.install("3.13")
    python = machine.install_in_pyenv("3.12")
    assert f"Making .venv-py3.12 with Python 3.12.9, {python} ..." in machine.make("PYTHON=python3.12")


def test_one_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.install("3.13", runs=False)
    machine.install("3.11")
    assert "Making .venv with Python 3.11.9, python3.11 ..." in machine.make()


def test_where_there_is_none_it_is_asked_for(machine: Machine) -> None:
    machine.install("3.10")
    said = machine.make()
    assert said == (
        "Python is missing: python3.13 python3.12 python3.11. Install one, or set PYTHON=/path/to/python.\n"
    )
    assert "Python is missing: python3.12. Install one" in machine.make("PYTHON=python3.12")


@pytest.mark.parametrize("target", ["docs", "docs-links", "test-stores", "cluster"])
def test_also_by_what_has_an_environment_of_its_own(machine: Machine, target: str) -> None:
    machine.check_out()
    assert re.match(r"Python is missing: .* set \w*PYTHON=/path/to/python\.\n$", machine.make(target=target))


def test_a_path_may_have_spaces(machine: Machine) -> None:
    python = machine.install("3.12", place=machine.home / "my own")
    assert f"Making .venv-py3.12 with Python 3.12.9, {python} ..." in machine.make(f"PYTHON={python}")


def test_an_environment_that_was_broken_off_is_made_again(machine: Machine) -> None:
    """It has a Python, but no pip yet."""
    machine.install("3.12")
    machine.check_out()
    broken = machine.install("3.12", place=machine.home / ".venv/bin", runs=False)
    broken.rename(broken.with_name("python"))
    assert "python3.12 -m venv --clear .venv\n" in machine.make(target="lint")


def test_an_airflow_without_constraints_is_refused(machine: Machine) -> None:
    """With the names of those that have some, and before anything is made."""
    machine.install("3.12")
    machine.check_out()
    said = machine.make("VERSION=9.9.9", target="lint")
    assert said.startswith("There is no constraints/airflow-9.9.9.txt")
    assert "airflow-3.3.2.txt" in said
    assert "constraints/make.sh" in said
    assert "Making" not in said


def test_airflow_3_0_is_not_made_for_3_13(machine: Machine) -> None:
    for version in ("3.11", "3.12", "3.13"):
        machine.install(version)
    assert "Making .venv-3.0.6 with Python 3.12.9" in machine.make("VERSION=3.0.6")
    assert "Making .venv-3.1.8 with Python 3.13.9" in machine.make("VERSION=3.1.8")


def test_each_airflow_and_python_has_an_environment_of_its_own(machine: Machine) -> None:
    python = machine.install("3.12", place=machine.home / "elsewhere")
    assert "Making .venv-py3.12 with" in machine.make(f"PYTHON={python}")
    assert "Making .venv-3.1.8-py3.12 with" in machine.make(f"PYTHON={python}", "VERSION=3.1.8")
    assert "Making mine with" in machine.make(f"PYTHON={python}", "VENV=mine")


def test_the_check_keeps_its_python_and_its_environment(machine: Machine) -> None:
    """By variables of the environment."""
    for version in ("3.11", "3.12", "3.13"):
        machine.install(version)
    exports = re.findall(r"(\w+)=\$\{\w+:-(\S+)\}", (ROOT / ".ci" / "run").read_text())
    assert "Making .venv with Python 3.11.9" in machine.make(**dict(exports))
    oldest = re.findall(r'^requires-python = ">=(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert dict(exports)["PYTHON"] == f"python{oldest[0]}"
