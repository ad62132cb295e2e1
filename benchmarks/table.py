r"""
What it takes to load results into PostgreSQL, compared with ``psql \copy`` of the same rows as a ready file.

Both write to one local server, in turn, several times; ours has to read the results, check them and choose
the rows. The server waits for the disk as a real one does. Prints markdown with the medians. It needs
PostgreSQL's programs and ``apache-airflow-providers-postgres``; ``make test-databases`` says how to get them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(CHECKOUT / "tests"))
from sqlservers import PostgresServer, program

SIDE_PROGRAM = Path(__file__).with_name("table_side.py")
ROWS_PER_PART = 50_000
TABLE = "CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label TEXT)"
COPY = r"\copy {} FROM '{}' WITH (FORMAT csv)"
UPSERT = (
    "INSERT INTO labels SELECT * FROM stage ON CONFLICT (custom_id) DO UPDATE SET label = excluded.label",
    "DROP TABLE stage",
)
STEPS = {"a new table": "", "an upsert of all its rows": "upsert"}


def result_rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield results with labels of some words."""
    usage = {"prompt_tokens": 61, "completion_tokens": 9, "total_tokens": 70}
    for number in range(count):
        output = f"The place number {number % 977} is a town, {'quite' if number % 3 else 'hardly'} known"
        yield {
            "custom_id": f"row-{number}",
            "status": "succeeded",
            "output": output,
            "usage": usage,
            "error": None,
            "finish_reason": None,
        }


def write_results(folder: Path, count: int) -> None:
    """Write the results of a job, and the CSV file with the same rows."""
    parts: list[dict[str, Any]] = []
    rows = result_rows(count)
    with (folder / "rows.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        while (done := sum(part["rows"] for part in parts)) < count:
            path = folder / f"part-{len(parts):05d}.jsonl"
            size = min(ROWS_PER_PART, count - done)
            with path.open("w") as lines:
                for row in (next(rows) for _ in range(size)):
                    lines.write(json.dumps(row, separators=(",", ":")) + "\n")
                    writer.writerow([row["custom_id"], row["output"]])
            parts.append({"file": path.name, "rows": size, "bytes": path.stat().st_size})
    manifest = {
        "digest": "d",
        "endpoint": "/v1/chat/completions",
        "output_format": "jsonl",
        "rows": count,
        "parts": parts,
        "counts": {"succeeded": count},
        "usage": {},
        "batches": [],
        "errors": {},
        "scan": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Database:
    """The server, by ``psql``."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def psql(self, *commands: str) -> float:
        """Run commands in one transaction, and return the seconds that it took."""
        place = ["-h", "127.0.0.1", "-p", str(self._server.port), "-U", "postgres", "-d", "postgres"]
        arguments = [part for command in commands for part in ("-c", command)]
        began = time.perf_counter()
        subprocess.run(
            [str(program("psql")), "-qX", "-v", "ON_ERROR_STOP=1", "-1", *place, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    def by_psql(self, folder: Path, step: str) -> float:
        csv_file = folder / "rows.csv"
        if not STEPS[step]:
            self.psql("DROP TABLE IF EXISTS labels")
            return self.psql(TABLE, COPY.format("labels", csv_file))
        return self.psql("CREATE TEMP TABLE stage (LIKE labels)", COPY.format("stage", csv_file), *UPSERT)

    def by_us(self, folder: Path, step: str) -> dict[str, float]:
        """Load in a process of its own; the report has its seconds and MB."""
        if not STEPS[step]:
            self.psql("DROP TABLE IF EXISTS labels")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", SIDE_PROGRAM, str(folder)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "AIRFLOW_CONN_WAREHOUSE": json.dumps(self._server.connection()),
                "AIRFLOW_HOME": str(folder / "airflow"),
                "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            },
        )
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.rows:,} rows, medians of {options.runs} runs:\n")
    print("| into | `psql \\copy` | this provider | ratio | memory above a bare worker |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch, PostgresServer(is_durable=True) as server:
        folder, database = Path(scratch), Database(server)
        write_results(folder, options.rows)
        for step in STEPS:
            theirs, ours = [], []
            for _ in range(options.runs):
                theirs.append(database.by_psql(folder, step))
                ours.append(database.by_us(folder, step))
            psql, own = statistics.median(theirs), statistics.median(run["seconds"] for run in ours)
            memory = max(run["megabytes"] for run in ours)
            print(f"| {step} | {psql:.1f} s | {own:.1f} s | {own / psql:.2f} | {memory:.0f} MB |")


if __name__ == "__main__":
    main()
