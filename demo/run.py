"""Shows the main job at work: real rows, a real Airflow, and a local Batch API (or OpenAI's own)."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_stack import AirflowStack
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
HERE = ROOT / ".demo"
DAG = "quickstart"
TASK = "label_places"
CONNECTION = "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"
# What OpenAI asks for the model of the example, in US dollars for a million tokens.
# https://developers.openai.com/api/docs/models/gpt-5-mini
PRICES = {"gpt-5-mini": {"input": 0.25, "cached_input": 0.025, "output": 2}}
console = Console(highlight=False)


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = prepare(arguments)
    try:
        with service(arguments) as connection, airflow(connection, arguments) as stack:
            if arguments.ui:
                return keep_open(stack)
            return run(stack, rows)
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        return 130


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", choices=["local", "openai"], default="local")
    parser.add_argument(
        "--rows", type=int, help="how many rows (default: all 3,376; with --service openai: 5)"
    )
    parser.add_argument("--ui", action="store_true", help="leave Airflow running")
    arguments = parser.parse_args()
    if arguments.service == "openai" and not os.environ.get("OPENAI_API_KEY"):
        parser.error("--service openai needs OPENAI_API_KEY, and costs real money.")
    return arguments


def prepare(arguments: argparse.Namespace) -> int:
    """Write the rows to a file: the airports of the United States, from the package vega-datasets."""
    shutil.rmtree(HERE, ignore_errors=True)
    (HERE / "include").mkdir(parents=True)
    spec = importlib.util.find_spec("vega_datasets")
    assert spec
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "_data" / "airports.csv"
    limit = arguments.rows or (5 if arguments.service == "openai" else None)
    with source.open(newline="", encoding="utf-8") as given:
        rows = list(islice(csv.reader(given), None if limit is None else limit + 1))
    with (HERE / "include" / "places.csv").open("w", newline="", encoding="utf-8") as taken:
        csv.writer(taken).writerows(rows)
    return len(rows) - 1


@contextmanager
def service(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The connection to the service; the local one runs for as long as it is needed."""
    if arguments.service == "openai":
        console.print("[bold]Service[/] OpenAI, with the key in OPENAI_API_KEY: this costs money.")
        yield {"conn_type": "openai_batches", "password": os.environ["OPENAI_API_KEY"]}
        return
    command = [sys.executable, "-m", "airflow_provider_openai_batches.devserver", "--port", "0"]
    with subprocess.Popen(
        [*command, "--batch-seconds", "20"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            url = line[line.index("http") :].split()[0]
            console.print(f"[bold]Service[/] a local Batch API at {url}; it makes its answers up.")
            yield {
                "conn_type": "openai_batches",
                "host": url,
                "password": "any-key",
                "extra": {"prices": PRICES},
            }
        finally:
            server.terminate()


@contextmanager
def airflow(connection: dict[str, Any], arguments: argparse.Namespace) -> Iterator[AirflowStack]:
    environment = {
        CONNECTION: json.dumps(connection),
        "EXAMPLE_ROWS": str(HERE / "include" / "places.csv"),
        "EXAMPLE_WORK": str(HERE / "include"),
        "EXAMPLE_POLL_INTERVAL": "30" if arguments.service == "openai" else "1",
    }
    # Also for this process, which lists the batches to show their progress.
    os.environ |= {CONNECTION: environment[CONNECTION], "AIRFLOW_HOME": str(HERE / "airflow")}
    stack = AirflowStack(HERE / "airflow", ROOT / "example_dags", environment)
    began = time.monotonic()
    with console.status("Starting Airflow: scheduler, triggerer, DAG processor, API server …"):
        stack.start()
    console.print(
        f"[bold]Airflow[/] {stack.url} (started in {time.monotonic() - began:.0f} s, no login needed)"
    )
    try:
        yield stack
    finally:
        with console.status("Stopping Airflow …"):
            stack.stop()


def keep_open(stack: AirflowStack) -> int:
    stack.wait_for_dag(DAG)
    console.print(
        f"\nOpen [bold]{stack.url}[/]: the DAG '{DAG}' is ready to be triggered, the connection is "
        "configured, and 'OpenAI Batches' is in the menu.\nCtrl-C stops everything."
    )
    while True:
        time.sleep(1)
        if stack.processes["api-server"].poll() is not None:
            return 1


def run(stack: AirflowStack, rows: int) -> int:
    began = time.monotonic()
    run_id = stack.trigger(DAG)
    console.print(f"[bold]Job[/] DAG '{DAG}', {rows:,} rows")
    watch(stack, run_id, rows)
    state = stack.run_state(DAG, run_id)
    if state != "success":
        console.print(f"\n[red]The run ended as {state}.[/] The end of the task's log:")
        console.print(stack.task_log(DAG, run_id, TASK)[-3000:], markup=False)
        return 1
    summarise(stack.xcom(DAG, run_id, TASK), time.monotonic() - began)
    return 0


def watch(stack: AirflowStack, run_id: str, rows: int) -> None:
    """Show how many requests are done, and the state of the task."""
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook  # noqa: PLC0415 - slow

    hook = OpenAIBatchesHook()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("requests", total=rows)
        while (state := stack.run_state(DAG, run_id)) not in {"success", "failed"}:
            mine = [b for b in hook.iter_batches() if (b.metadata or {}).get("airflow_run_id") == run_id]
            done = sum(batch.counts.completed for batch in mine)
            over = sum(batch.is_over for batch in mine)
            task_state = stack.task(DAG, run_id, TASK)["state"] or "scheduled"
            words = f"{over} of {len(mine)} batches over, task is {task_state}"
            progress.update(bar, completed=done, description=words)
            time.sleep(0.5)
        progress.update(
            bar, completed=rows if state == "success" else None, description=f"the run is {state}"
        )


def summarise(result: dict[str, Any], seconds: float) -> None:
    output = Path(str(result["output_uri"]).removeprefix("file://"))
    facts = Table(show_header=False, box=None)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (
        ("rows", ", ".join(f"{count:,} {status}" for status, count in result["counts"].items() if count)),
        ("batches", f"{len(result['batches'])}"),
        ("tokens", f"{result['usage']['input_tokens']:,} in, {result['usage']['output_tokens']:,} out"),
        (
            "cost",
            f"${result['cost']['usd']:.4f} at OpenAI's prices" if result["cost"]["is_known"] else "unknown",
        ),
        ("time", f"{seconds:.0f} s from the trigger to the last result"),
        ("results", str(output.relative_to(ROOT))),
    ):
        facts.add_row(f"[bold]{name}[/]", value)
    console.print(facts)
    first = min(output.glob("part-*.jsonl"))
    table = Table("custom_id", "name", "city", "output", title="The first rows")
    with first.open(encoding="utf-8") as lines:
        for line in islice(lines, 8):
            row = json.loads(line)
            table.add_row(row["custom_id"], row["name"], row["city"], str(row["output"]))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
