"""What Airflow's provider registry reads: each public class, once, and addresses that are ours."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from typing import TYPE_CHECKING, Any

import yaml
from import_graph import ROOT, no

from airflow_provider_openai_batches.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Iterator

REGISTRY: dict[str, Any] = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INFO = get_provider_info()
SECTIONS = {name: entries for name, entries in REGISTRY.items() if isinstance(entries, list)}


def public(section: str) -> Iterator[str]:
    """The classes and functions that the provider info's modules and class names stand for."""
    for entry in INFO[section]:
        if "class-name" in entry:
            yield entry["class-name"]
        for module in entry.get("python-modules", [entry.get("python-module")]):
            if module:
                for name, value in inspect.getmembers(importlib.import_module(module), inspect.isclass):
                    if value.__module__ == module and not name.startswith("_"):
                        yield f"{module}.{name}"


def test_each_public_class_is_listed_once_and_described() -> None:
    assert set(SECTIONS) == {"hooks", "operators", "sensors", "task-decorators", "transfers", "triggers"}
    for section, entries in SECTIONS.items():
        assert sorted(entry["module"] for entry in entries) == sorted(public(section)), section
    texts = [entry["description"] for entries in SECTIONS.values() for entry in entries]
    assert len(set(texts)) == len(texts)
    no("Not a sentence:", (text for text in texts if not text.endswith(".")))


def test_it_is_this_package_in_this_place() -> None:
    assert REGISTRY["package-name"] == PROJECT["name"] == INFO["package-name"]
    assert REGISTRY["display-name"] == INFO["name"]
    assert REGISTRY["source-url"] == PROJECT["urls"]["Repository"]
    assert REGISTRY["docs-url"] == PROJECT["urls"]["Documentation"]


def test_the_logo_is_a_file_of_this_repository() -> None:
    """Its address is that of a file on the branch that is released."""
    home = PROJECT["urls"]["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    address, _, path = REGISTRY["logo"].partition("/main/")
    assert address == home
    assert (ROOT / path).read_text().startswith("<svg ")
