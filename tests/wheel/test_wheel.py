"""What was built is whole, and does everything without the files of this checkout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from airflow_api import AirflowApi
from import_graph import FOLDER, PACKAGE, ROOT, no
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheelkit import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wheelkit import Installation

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = {
    str(path.relative_to(ROOT))
    for path in FOLDER.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
PICTURES = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*-*.png")}
STATIC = sorted(path.name for path in (FOLDER / "plugin" / "static").iterdir())
ROWS = "iata,name,city\n" + "".join(f"X{n},Field {n},Town {n}\n" for n in range(5))
pytestmark = pytest.mark.timeout(300)


def built(pattern: str) -> Path:
    (path,) = (ENVIRONMENT / "dist").glob(pattern)
    return path


def test_twine_finds_no_fault() -> None:
    """Also not with the README, as the package index shows it."""
    twine = str(ENVIRONMENT / "tools" / "bin" / "twine")
    files = map(str, (ENVIRONMENT / "dist").iterdir())
    command = [twine, "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_wheel_has_each_file_of_the_package_and_no_others() -> None:
    with zipfile.ZipFile(built("*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    no("Not in the wheel, or not in the package:", names ^ FILES)
    assert f"{PACKAGE}/py.typed" in names
    assert len(licences) == 1


def test_the_source_distribution_has_what_it_takes_to_build_and_test_it() -> None:
    with tarfile.open(built("*.tar.gz")) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    no("Not in the source distribution:", set(tracked.split()) - names - PICTURES)
    no("Pictures in it:", names & PICTURES)


def test_the_package_that_runs_is_the_wheels(installation: Installation) -> None:
    place = installation.run("-c", f"import {PACKAGE}; print({PACKAGE}.__path__[0])").strip()
    assert Path(place).is_relative_to(ENVIRONMENT.resolve())
    assert not Path(place).is_relative_to(FOLDER)


def test_a_plain_install_brings_no_extra(installation: Installation) -> None:
    """So all that follows works without them."""
    code = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    there = {canonicalize_name(name) for name in installation.run("-c", code).split()}
    extras = PROJECT["optional-dependencies"]
    wanted = {
        canonicalize_name(Requirement(text).name)
        for name in ("parquet", "prices", "delta")
        for text in extras[name]
    }
    no("Installed without being asked for:", there & wanted)


def test_airflow_lists_the_provider(installation: Installation) -> None:
    providers = json.loads(installation.airflow("providers", "list", "--output", "json"))
    (ours,) = (item for item in providers if item["package_name"] == PROJECT["name"])
    assert ours["version"] == PROJECT["version"]


def test_airflow_loads_the_plugin(installation: Installation) -> None:
    plugins = json.loads(installation.airflow("plugins", "--output", "json"))
    (ours,) = (item for item in plugins if item["name"] == "openai_batches")
    assert PROJECT["name"] in str(ours["source"])


@pytest.fixture(scope="module")
def output(installation: Installation, service: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a DAG, in Airflow's own test runner; the name begins with the batch's id."""
    work = tmp_path_factory.mktemp("work")
    (work / "places.csv").write_text(ROWS)
    example = {
        "EXAMPLE_ROWS": str(work / "places.csv"),
        "EXAMPLE_WORK": str(work),
        "EXAMPLE_POLL_INTERVAL": "0.2",
    }
    dag = ROOT / "example_dags" / "one_batch.py"
    said = installation.run(str(ROOT / "tests" / "dag_runner.py"), str(dag), "{}", **example)
    (result,) = (line for line in said.splitlines() if line.startswith("RESULT "))
    assert set(json.loads(result.removeprefix("RESULT ")).values()) == {"success"}
    (found,) = work.glob("results/*/*-output.jsonl")
    return found


def test_a_dag_runs_and_the_command_line_shows_its_batch(installation: Installation, output: Path) -> None:
    """From rows to results."""
    assert len(output.read_bytes().splitlines()) == 5
    (batch,) = json.loads(installation.airflow("openai-batches", "list", "--output", "json"))
    assert batch["status"] == "completed"
    assert output.name == f"{batch['id']}-output.jsonl"


@pytest.fixture(scope="module")
def api_server(installation: Installation, service: str) -> Iterator[AirflowApi]:
    port = installation.url.rpartition(":")[2]
    with installation.start("-m", "airflow", "api-server", "--apps", "core", "--port", port) as process:
        api = AirflowApi(installation.url)
        try:
            api.wait_until(lambda: answers(installation.url), 120, "the API server answers")
            yield api
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v2/version", timeout=5).is_success
    except httpx.TransportError:
        return False


def test_the_page_answers(api_server: AirflowApi, output: Path) -> None:
    """Its files are in the wheel, and its API lists the batches of the connection."""
    page = httpx.get(f"{api_server.url}/openai-batches/", timeout=60)
    assert page.is_success
    assert "static/main.js" in page.text
    for name in STATIC:
        file = httpx.get(f"{api_server.url}/openai-batches/static/{name}", timeout=60)
        assert file.content == (FOLDER / "plugin" / "static" / name).read_bytes()
    shown = api_server.api("GET", "/openai-batches/api/batches?conn_id=openai_batches_default", prefix="")
    (batch,) = shown["batches"]
    assert output.name == f"{batch['id']}-output.jsonl"
