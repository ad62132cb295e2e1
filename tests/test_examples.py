"""Every example, and what README and Start show, runs against the dev server in Airflow's test runner."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import request_lines

if TYPE_CHECKING:
    from dagkit import DagRuns

    from airflow_provider_openai_batches.devserver import DevServer

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "example_dags"
ROWS = "iata,name,city\n" + "".join(f"X{n},Field {n},Town {n}\n" for n in range(20))
# Started by hand, it finds that no batch has ended, and skips what would fetch one.
WAITS_FOR_OTHERS = {"batches_from_elsewhere.py"}


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.glob("*.py"))])
def test_an_example_runs(
    name: str, dag_runs: DagRuns, airflow_database: dict[str, str], server: DevServer, tmp_path: Path
) -> None:
    """All its tasks succeed, and what it submitted is over."""
    (tmp_path / "places.csv").write_text(ROWS)
    for number in range(2):
        (tmp_path / f"requests-{number}.jsonl").write_bytes(request_lines(5, prefix=f"{number}-"))
    prepare_inputs(tmp_path)
    environment = {
        **airflow_database,
        **server.environment,
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/warehouse.db"}),
        **other_services(server),
        "EXAMPLE_ROWS": str(tmp_path / "places.csv"),
        "EXAMPLE_WORK": str(tmp_path),
        "EXAMPLE_REQUESTS": str(tmp_path / "requests-0.jsonl"),
        "EXAMPLE_POLL_INTERVAL": "0.2",
    }
    if name == "list_and_cancel.py":
        server.settings(batch_seconds=60)
        start_a_batch(server)
    states, said = dag_runs.run(EXAMPLES / name, environment, {"hours": 0.5})
    assert states, said[-3000:]
    skipped = {"skipped"} if name in WAITS_FOR_OTHERS else set()
    assert set(states.values()) - skipped == {"success"}, said[-3000:]
    assert "The files of job" not in said, "They are there: the test runner forgets which job it is."
    stats = server.stats()
    assert stats["batches"]["stored"] >= 1 or name in WAITS_FOR_OTHERS
    assert stats["paid_more_than_once"] == 0


def snippet(page: str, word: str) -> str:
    """The block of Python on a page that has this word."""
    blocks: list[str] = re.findall(
        r"^ *```python\n(.*?)^ *```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    (found,) = (block for block in blocks if word in block)
    return textwrap.dedent(found)


def test_the_dag_of_the_readme(
    dag_runs: DagRuns, airflow_database: dict[str, str], server: DevServer, tmp_path: Path
) -> None:
    """With another folder, and shorter pauses."""
    (tmp_path / "reviews.csv").write_text("review_id,text\n1,Great!\n2,Not for me.\n")
    code = snippet("README.md", "with DAG(").replace("/data/", f"{tmp_path}/")
    dag = tmp_path / "label_reviews.py"
    dag.write_text(code.replace("retries=3", "retries=3, poll_interval=0.2"))
    states, said = dag_runs.run(dag, {**airflow_database, **server.environment})
    assert states == {"label": "success"}, said[-3000:]
    (part,) = tmp_path.glob("labels/*/part-00000.jsonl")
    assert [json.loads(line)["custom_id"] for line in part.read_text().splitlines()] == ["1", "2"]


def test_the_test_of_a_dag_on_the_page_start(airflow_database: dict[str, str], tmp_path: Path) -> None:
    """As the page says to run it."""
    for name in ("dags", "tests"):
        (tmp_path / name).mkdir()
    shutil.copy(EXAMPLES / "quickstart.py", tmp_path / "dags")
    (tmp_path / "places.csv").write_text(ROWS)
    (tmp_path / "tests" / "test_my_dag.py").write_text(snippet("docs/start.md", "def test_my_dag"))
    environment = {
        **airflow_database,
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "EXAMPLE_ROWS": str(tmp_path / "places.csv"),
        "EXAMPLE_WORK": str(tmp_path),
        "EXAMPLE_POLL_INTERVAL": "0.2",
    }
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-o", "pythonpath=dags", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 passed" in done.stdout


def other_services(server: DevServer) -> dict[str, str]:
    """The connections of the examples on Azure and through a gateway, as the guides have them; and prices."""
    ((name, default),) = server.environment.items()
    priced = json.loads(default) | {"extra": {"prices": {"gpt-5-mini": {"input": 0.25, "output": 2}}}}
    address = server.base_url.removesuffix("/v1")
    azure = {
        "conn_type": "openai_batches",
        "host": f"{address}/openai/v1",
        "password": "sk-azure",
        "extra": {"api_type": "azure"},
    }
    prices = {"my-model": {"input": 0.25, "output": 2}}
    gateway = {
        "conn_type": "openai_batches",
        "host": f"{address}/v1",
        "password": "sk-gateway",
        "extra": {"headers": {"X-Team": "search"}, "prices": prices, "batch_discount": 1},
    }
    return {
        name: json.dumps(priced),
        "AIRFLOW_CONN_AZURE_OPENAI": json.dumps(azure),
        "AIRFLOW_CONN_GATEWAY": json.dumps(gateway),
    }


def prepare_inputs(folder: Path) -> None:
    """The table and the documents that some examples read."""
    with closing(sqlite3.connect(folder / "warehouse.db")) as connection, connection:
        connection.execute("CREATE TABLE places (iata TEXT, name TEXT, city TEXT)")
        rows = [line.split(",") for line in ROWS.splitlines()[1:]]
        connection.executemany("INSERT INTO places VALUES (?, ?, ?)", rows)
    (folder / "documents").mkdir()
    for number in range(5):
        (folder / "documents" / f"{number}.txt").write_text(f"The text of document {number}.")


def start_a_batch(server: DevServer) -> None:
    """Something for list_and_cancel to find: it has been running for an hour."""
    import io

    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

    hook = OpenAIBatchesHook()
    batch = hook.create_batch(hook.upload_file(io.BytesIO(request_lines())).id, "/v1/chat/completions")
    server.force(batch.id, created_at=(batch.created_at or 0) - 3600)
