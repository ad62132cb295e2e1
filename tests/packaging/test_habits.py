"""What `.github/`, the linters' hook and the project's texts say: versions, targets and paths that exist."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import airflow
import pytest
import yaml
from import_graph import FOLDER, ROOT, Source, house, no

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GITHUB = ROOT / ".github"
WORKFLOWS: dict[str, dict[str, Any]] = {
    path.name: yaml.safe_load(path.read_text()) for path in sorted((GITHUB / "workflows").glob("*.yml"))
}
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
TEXTS = ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", ".github/PULL_REQUEST_TEMPLATE.md")
AIRFLOWS = {path.stem.removeprefix("airflow-") for path in (ROOT / "constraints").glob("airflow-*.txt")}
PYTHON = "Programming Language :: Python :: "
PYTHONS = {text.removeprefix(PYTHON) for text in PROJECT["classifiers"] if text.startswith(PYTHON)}
KINDS = (".js", ".md", ".py", ".toml", ".yaml", ".yml")
MATRIX = WORKFLOWS["tests.yml"]["jobs"]["tests"]["strategy"]["matrix"]
# Hosts that the package names: the one that it asks by default, and those that it only links to.
ASKED = {"api.openai.com"}
LINKED = {"platform.openai.com", "developers.openai.com"}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step of each job, and jobs that are another workflow, with where it stands."""
    for file, workflow in WORKFLOWS.items():
        for name, job in workflow["jobs"].items():
            for step in job.get("steps", [job]):
                yield f"{file}: {name}", step


def test_actions_are_named_by_their_commits() -> None:
    """Or are files of this repository."""
    texts = {path.name: path.read_text() for path in (GITHUB / "workflows").glob("*.yml")}
    uses = [(where, step["uses"]) for where, step in steps() if "uses" in step]
    assert uses
    no(
        "Name the commit, and the version in a comment:",
        (
            f"{where}: {action}"
            for where, action in uses
            if not action.startswith("./")
            and not re.search(rf"{re.escape(action)} # v\d+\.\d+\.\d+\n", texts[where.partition(":")[0]])
        ),
    )
    no(
        "Not a commit:",
        (action for _, action in uses if action[0] != "." and not re.search(r"@[0-9a-f]{40}$", action)),
    )


def test_the_commits_are_moved_by_dependabot() -> None:
    (update,) = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    assert (update["package-ecosystem"], update["directory"]) == ("github-actions", "/")


def test_workflows_may_read_alone_and_one_job_may_publish() -> None:
    for file, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, file
        for name, job in workflow["jobs"].items():
            wanted = {"id-token": "write"} if (file, name) == ("release.yml", "publish") else None
            assert job.get("permissions") == wanted, f"{file}: {name}"
    assert WORKFLOWS["release.yml"]["jobs"]["publish"]["environment"] == "pypi"
    no(
        "No key is to be kept:",
        (path.name for path in GITHUB.rglob("*.yml") if "secrets." in path.read_text()),
    )


def test_each_change_is_checked_by_all_that_a_runner_can() -> None:
    run = {target for where, target in made_targets() if where.startswith("tests.yml: ")}
    assert run == {"docs", "lint", "test", "test-ui", "test-wheel"}


def test_constraints_that_are_named_are_there() -> None:
    """By make for the Airflow that it takes without VERSION, and as keys of caches."""
    (version,) = re.findall(r"^AIRFLOW \?= (\S+)$", MAKEFILE, re.MULTILINE)
    named = {
        name.replace("$(AIRFLOW)", version)
        for name in re.findall(r"constraints/[\w$().-]+\.txt", MAKEFILE)
        if "*" not in name
    }
    named |= {
        re.sub(r"\$\{\{ matrix\.airflow \}\}", version, step["with"]["cache-dependency-path"])
        for _, step in steps()
        if "cache" in step.get("with", {})
    }
    assert {
        "constraints/docs.txt",
        f"constraints/airflow-{version}.txt",
        f"constraints/stores-{version}.txt",
    } <= named
    no("No such file:", (name for name in named if not (ROOT / name).is_file()))


def test_no_checkout_leaves_its_token_behind() -> None:
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_nothing_is_published_that_was_not_tested_and_built() -> None:
    """What is published comes from the job before, by the name that this one gave it."""
    jobs = WORKFLOWS["release.yml"]["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert jobs["build"]["needs"] == "tests"
    assert jobs["publish"]["needs"] == "build"
    names = [
        step["with"]["name"]
        for _, step in steps()
        if re.search("(up|down)load-artifact", step.get("uses", ""))
    ]
    assert names == ["distributions", "distributions"]


@pytest.mark.parametrize(
    ("tag", "repository", "goes_on"),
    [
        (f"v{PROJECT['version']}", urlsplit(PROJECT["urls"]["Repository"]).path[1:], True),
        ("v99.0.0", urlsplit(PROJECT["urls"]["Repository"]).path[1:], False),
        (f"v{PROJECT['version']}", "somebody/else", False),
    ],
)
def test_a_tag_that_does_not_fit_stops_the_release(tag: str, repository: str, goes_on: bool) -> None:
    """Run as the runner does: bash ends at the first command that fails."""
    (step,) = (
        step for where, step in steps() if where == "release.yml: build" and "grep" in step.get("run", "")
    )
    given = {**os.environ, "GITHUB_REF_NAME": tag, "GITHUB_REPOSITORY": repository}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=ROOT, env=given, capture_output=True, check=False
    )
    assert (done.returncode == 0) is goes_on


def test_each_job_ends() -> None:
    no(
        "Without a limit a job that hangs runs for six hours:",
        (
            f"{file}: {name}"
            for file, workflow in WORKFLOWS.items()
            for name, job in workflow["jobs"].items()
            if "timeout-minutes" not in job and "uses" not in job
        ),
    )


def test_the_matrix_has_what_this_project_supports() -> None:
    """Each Airflow that there are constraints for, with each Python that the package names and make takes."""
    assert set(MATRIX["airflow"]) == AIRFLOWS
    assert set(MATRIX["python"]) == PYTHONS
    left_out = {(pair["airflow"], pair["python"]) for pair in MATRIX["exclude"]}
    assert left_out == {(version, "3.13") for version in AIRFLOWS if version.startswith("3.0.")}
    (names,) = re.findall(r"^PYTHONS = (.*)$", MAKEFILE, re.MULTILINE)
    assert set(re.findall(r"python(3\.\d+)", names)) == PYTHONS
    browser = WORKFLOWS["tests.yml"]["jobs"]["browser"]["strategy"]["matrix"]["airflow"]
    assert set(browser) == {version for version in AIRFLOWS if not version.startswith("3.0.")}


def test_airflow_is_made_for_these_pythons() -> None:
    """By what the installed one says of itself."""
    classifiers = importlib.metadata.metadata("apache-airflow").get_all("Classifier") or []
    left_out = {pair["python"] for pair in MATRIX["exclude"] if pair["airflow"] == airflow.__version__}
    no("Airflow does not name:", PYTHONS - left_out - {text.removeprefix(PYTHON) for text in classifiers})


def made_targets() -> Iterator[tuple[str, str]]:
    """Each target of make that a workflow, a hook or a text names, with where."""
    for where, step in steps():
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            yield where, target
    for hook in HOOKS["repos"][0]["hooks"]:
        yield ".pre-commit-config.yaml", hook["entry"].removeprefix("make ")
    documents = (str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    for name in (*TEXTS, "README.md", *documents):
        for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", (ROOT / name).read_text()):
            yield name, target


def test_each_target_exists() -> None:
    found = set(made_targets())
    assert {"lint", "test", "test-ui", "test-wheel"} <= {target for _, target in found}
    no("make has no such target:", (f"{where}: {target}" for where, target in found if target not in TARGETS))


def test_make_help_lists_what_there_is() -> None:
    """But for itself, and the first step of the others."""
    listed = set(re.findall(r'^\t@echo "make ([a-z-]+)', MAKEFILE, re.MULTILINE))
    assert TARGETS - {"help", "environment"} == listed
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE))
    no("A file of that name would stand for it; add it to .PHONY:", TARGETS - set(phony.split()))


def test_the_hook_is_make_lint() -> None:
    """So it cannot check less, more, or with other versions."""
    (repo,) = HOOKS["repos"]
    (hook,) = repo["hooks"]
    assert (repo["repo"], hook["language"], hook["entry"]) == ("local", "system", "make lint")
    assert hook["pass_filenames"] is False


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_a_form_is_one(path: Path) -> None:
    """https://docs.github.com/en/communities/using-templates-to-encourage-useful-issues-and-pull-requests"""
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields)
    assert {part["type"] for part in fields} <= {"textarea", "input", "dropdown"}
    assert any(part.get("validations", {}).get("required") for part in fields)


@pytest.mark.parametrize("name", TEXTS)
def test_each_file_that_a_text_names_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths = re.findall(r"`([a-z_.]+/[\w./-]*|[a-z_]+\.(?:py|toml))`", text)
    roots = (ROOT, FOLDER, ROOT / "tests")
    found = [path for path in [*links, *paths] if not path.startswith(".venv")]
    no(f"{name} names:", (path for path in found if not any((root / path).exists() for root in roots)))


def test_each_name_that_a_recipe_tells_of_is_there() -> None:
    """Of the tables, classes and functions that a new endpoint, service or format goes into."""
    recipes = re.findall(
        r"^## Add .*?(?=^## )", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names = {name for recipe in recipes for name in re.findall(r"`(_?[A-Z]\w+)`", recipe)}
    defined = "".join(path.read_text() for path in FOLDER.rglob("*.py"))
    assert {"READERS", "PartWriter"} <= names
    no(
        "Not in the package:",
        (name for name in names if not re.search(rf"^(class )?{name}\b", defined, re.MULTILINE)),
    )


def test_the_address_of_the_project_is_in_one_place() -> None:
    """And where others read it: test_documents.py and test_registry.py compare them."""
    organisations = {urlsplit(url).path.split("/")[1] for url in PROJECT["urls"].values()}
    (organisation,) = organisations
    folders = (".github", "benchmarks", "demo", "deploy", "docs", "example_dags", "tests", FOLDER.name)
    files = [*ROOT.iterdir(), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in files if path.suffix in KINDS and "_build" not in path.parts]
    found = {str(path.relative_to(ROOT)) for path in texts if f"{organisation}/" in path.read_text()}
    assert found == {".airflow-registry.yaml", "README.md", "pyproject.toml"}


def hosts(source: Source) -> Iterator[tuple[str, int]]:
    """The hosts in a file's strings, without those in docstrings."""
    for text, line in source.strings():
        for url in re.findall(r"https?://[\w.-]+\.[a-z]+\b", text):
            yield urlsplit(url).hostname or "", line


def test_nothing_is_told_to_anyone() -> None:
    """No telemetry, and no look-up of versions or prices: no host is named that could be asked for them."""
    found = {(host, f"{source.file}:{line}") for source in house() for host, line in hosts(source)}
    others = (f"{where}: {host}" for host, where in found if host not in ASKED | LINKED)
    no("Is this host asked for something?", others)
    assert {host for host, _ in found} >= ASKED
    static = "".join(path.read_text() for path in (FOLDER / "plugin" / "static").iterdir())
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}\b", static)) <= {"http://www.w3.org"}


def test_prices_are_those_of_the_installed_package() -> None:
    """genai-prices would fetch newer ones for whoever starts its UpdatePrices."""
    no(
        "Prices are fetched:",
        (str(path) for path in FOLDER.rglob("*.py") if "UpdatePrices" in path.read_text()),
    )


def test_the_changelog_has_the_version_on_top() -> None:
    """Below what is not released yet."""
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert headings in (released, ["Unreleased", *released])
    assert released[0] == PROJECT["version"]
    numbers = [[int(part) for part in text.split(".")] for text in released]
    assert numbers == sorted(numbers, reverse=True)
