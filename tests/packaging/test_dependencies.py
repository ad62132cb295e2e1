"""What is imported is declared, and a plain install adds no package to an Airflow."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from import_graph import ROOT, Source, foreign_imports, no, sources
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AIRFLOW = "apache-airflow"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {
    canonicalize_name(requirement.name): requirement
    for requirement in map(Requirement, PROJECT["dependencies"])
}
# What users may install beside it; the tools of this project's own development are not for them.
EXTRAS = {
    canonicalize_name(Requirement(text).name)
    for extra, texts in PROJECT["optional-dependencies"].items()
    if extra not in {"dev", "stores"}
    for text in texts
}
CONSTRAINTS = sorted((ROOT / "constraints").glob("*-*.txt"))  # docs.txt has no Airflow
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def imported(source: Source) -> Iterator[tuple[str, int]]:
    """The top-level names that a file imports, also those that it imports by name."""
    for item in foreign_imports(source):
        yield item.target.partition(".")[0], item.line
    if any(item.target == "importlib" for item in foreign_imports(source)):
        for text, line in source.strings():
            if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", text) and text.partition(".")[0] in DISTRIBUTIONS:
                yield text.partition(".")[0], line


def is_declared(name: str, source: Source) -> bool:
    if name == "airflow":
        return AIRFLOW in DEPENDENCIES
    if name == "pytest":
        return source.name == "devserver.pytest_plugin"  # which pytest itself loads
    return any(canonicalize_name(found) in {*DEPENDENCIES, *EXTRAS} for found in DISTRIBUTIONS.get(name, ()))


def test_what_is_imported_is_declared() -> None:
    """This includes imports inside functions, and packages that every Airflow has."""
    no(
        "Not declared in pyproject.toml:",
        (
            f"{source.file}:{line} -> {name}"
            for source in sources().values()
            for name, line in imported(source)
            if name not in sys.stdlib_module_names and not is_declared(name, source)
        ),
    )


def test_what_is_declared_is_imported() -> None:
    """A dependency that nothing imports only stands in the way of an upgrade."""
    names = {name for source in sources().values() for name, _ in imported(source)}
    used = {canonicalize_name(found) for name in names for found in DISTRIBUTIONS.get(name, ())}
    no("Declared, but never imported:", set(DEPENDENCIES) - used - {AIRFLOW})


def test_a_plain_install_adds_no_package_to_airflow() -> None:
    no("Not part of Airflow:", set(DEPENDENCIES) - set(brought_by(AIRFLOW)))


def brought_by(name: str) -> set[str]:
    """The distributions that are installed together with one, according to their metadata."""
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str, str]] = [(name, "")]
    while waiting:
        found = waiting.pop()
        if found not in seen:
            seen.add(found)
            waiting += _needs(*found)
    return {found for found, _ in seen}


def _needs(name: str, extra: str) -> Iterator[tuple[str, str]]:
    try:
        texts = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ("", *requirement.extras):
                yield canonicalize_name(requirement.name), wanted


@pytest.mark.parametrize("path", CONSTRAINTS, ids=[path.stem for path in CONSTRAINTS])
def test_the_bounds_fit_each_airflow(path: Path) -> None:
    """By the versions that this project is tested with."""
    pins = dict(line.split("==") for line in path.read_text().splitlines() if "==" in line)
    no(
        "Out of bounds:",
        (
            f"{requirement} allows no {pins[name]}"
            for name, requirement in DEPENDENCIES.items()
            if not requirement.specifier.contains(pins[name])
        ),
    )
