"""Documents: a short README whose links lead somewhere, guides around examples, and messages that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from import_graph import ROOT

from airflow_provider_openai_batches.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
GUIDES = sorted(path for path in (DOCS / "guides").glob("*.md") if path.stem != "index")
INCLUDE = re.compile(
    r'\{literalinclude\} (\S+)\n:language: python\n:start-after: "(.+)"\n:end-before: "(.+)"\n'
)
# What stands between the repository's name and a file in it.
BRANCH = re.compile(r"(blob/)?main/")
# What the service says, not the provider.
OF_THE_SERVICE = {"insufficient_quota"}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_links_of_the_readme_are_absolute_and_lead_to_files() -> None:
    """The package index shows it too, where a link to a file beside it leads nowhere."""
    found = re.findall(r"\]\(([^)]+)\)|^\[[^\]]+\]: (\S+)$", README, re.MULTILINE)
    links = [urlsplit(inline or named) for inline, named in found]
    assert all(link.scheme == "https" for link in links)
    ours = [link.path.split("/", 3)[1:] for link in links if "github" in link.netloc]
    homes = {f"{organisation}/{name}" for organisation, name, _ in ours}
    homes |= {"/".join(urlsplit(url).path.split("/")[1:3]) for url in PROJECT.get("urls", {}).values()}
    assert len(homes) == 1, "README.md and pyproject.toml name two repositories."
    assert [path for *_, path in ours if not (ROOT / BRANCH.sub("", path, count=1)).is_file()] == []


def test_each_named_link_of_the_readme_is_used() -> None:
    named = set(re.findall(r"^\[([^\]]+)\]: ", README, re.MULTILINE))
    assert set(re.findall(r"\]\[([a-z]+)\]", README)) == named


@pytest.mark.parametrize("guide", GUIDES, ids=[path.stem for path in GUIDES])
def test_a_guide_has_an_example(guide: Path) -> None:
    """Between two marks that are there once, in a file that `tests/test_examples.py` runs."""
    found = INCLUDE.findall(guide.read_text())
    assert found
    for name, start, end in found:
        example = (guide.parent / name).resolve()
        text = example.read_text()
        assert example.parent == ROOT / "example_dags"
        assert text.count(start) == text.count(end) == 1
        assert text.index(start) < text.index(end)


def test_each_example_is_in_a_document() -> None:
    pages = "".join(path.read_text() for path in [DOCS / "start.md", *GUIDES])
    examples = [path.stem for path in (ROOT / "example_dags").glob("*.py")]
    assert [name for name in examples if f'"[START {name}]"' not in pages] == []


def test_the_reference_has_each_module_that_airflow_is_told_of() -> None:
    """A new operator is in the provider info, or Airflow does not know it; so it is in the reference."""
    kinds = ("hooks", "operators", "sensors", "triggers")
    info = get_provider_info()
    modules = [module for kind in kinds for entry in info[kind] for module in entry["python-modules"]]
    modules += [entry["python-module"] for entry in info["transfers"]]
    reference = (DOCS / "operators" / "reference.md").read_text()
    assert [name for name in modules if f"../_api/{name.replace('.', '/')}/index>" not in reference] == []


def texts_of_the_package() -> str:
    """All its strings; what a message puts in is left out."""
    found = []
    for path in (ROOT / "airflow_provider_openai_batches").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_messages_under_troubleshooting_exist() -> None:
    """Whoever searches for a message finds it as the provider says it."""
    lines = (DOCS / "troubleshooting.md").read_text().splitlines()
    messages = {
        message
        for line in lines
        if line.startswith("| ")
        for message in re.findall("`(.+?)`", line.split("|")[1])
    }
    texts = texts_of_the_package()
    parts = {part for message in messages - OF_THE_SERVICE for part in re.split("…|(?=max_cost=)", message)}
    assert len(messages) > 15
    assert sorted(part for part in parts if part.strip(" :'\".") not in texts) == []
