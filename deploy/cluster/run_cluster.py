"""
Run a job from table to table on a cluster that is built for it, and kill parts of it on the way.

``make cluster`` runs this in an environment of its own. It exits with 1 if a request was paid twice, a row
was lost, a batch was left running, or the table of answers is not complete.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import boto3
import httpx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "demo"))

from airflow_api import OVER  # noqa: E402 - after the path is set
from cluster import Cluster, connections  # noqa: E402 - it needs the path too
from kills import Kills  # noqa: E402
from measure import Gauges  # noqa: E402
from outcome import Outcome  # noqa: E402
from servers import BatchApi, PostgreSQL, Redis, Store  # noqa: E402

from airflow_provider_openai_batches.devserver import DevServerClient  # noqa: E402

DAG = "table_to_table"
BUCKET = "results"
MAX_REQUESTS = 50_000  # of a batch
MIN_BATCHES = 4
REVIEWS = """
CREATE TABLE reviews AS
    SELECT number AS id, 'It took ' || number % 9 || ' days to arrive, ' || md5(number::text) AS review
    FROM generate_series(1, {rows}) AS number;
ALTER TABLE reviews ADD PRIMARY KEY (id);
CREATE TABLE answers (id bigint PRIMARY KEY, answer text NOT NULL)
"""
# The Batch API quotes the end of the question in its answer.
RIGHT = """
SELECT count(*) FROM reviews JOIN answers USING (id)
    WHERE right(answer, length(id || review) + 9) = 'Review ' || id || ': ' || review
"""


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix="cluster-"))
    keeps = True
    try:
        with ExitStack() as exits:
            outcome = run(options, home, exits)
        print(f"\n{outcome.table()}", flush=True)
        keeps = options.keep or not outcome.is_good
    except KeyboardInterrupt:
        keeps = options.keep
        say("stopped; nothing is left running")
        return 130
    finally:
        if keeps:
            say(f"the logs of all processes are in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    return 0 if outcome.is_good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[1])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=3, help="how many processes are killed")
    parser.add_argument("--batch-seconds", type=float, default=60, help="how long a batch takes")
    parser.add_argument("--minutes", type=float, default=30, help="the time limit")
    parser.add_argument("--keep", action="store_true", help="keep the logs also if all went well")
    options = parser.parse_args()
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    return options


def run(options: argparse.Namespace, home: Path, exits: ExitStack) -> Outcome:
    postgresql, redis, store = PostgreSQL(home), Redis(home), Store(home)
    batch_api = BatchApi(home, options.batch_seconds)
    for server in (postgresql, redis, store, batch_api):
        exits.callback(server.stop)
        server.start()
    api = exits.enter_context(DevServerClient(batch_api.url))
    say(f"PostgreSQL, Redis, an S3 store and a Batch API run; {options.rows:,} rows go into a table")
    prepare(postgresql, store, options.rows)
    environment = connections(postgresql, store, batch_api)
    environment["CLUSTER_REQUESTS_PER_BATCH"] = str(min(MAX_REQUESTS, -(-options.rows // MIN_BATCHES)))
    cluster = Cluster(home / "airflow", postgresql, redis, environment)
    exits.callback(cluster.stop)
    cluster.start(seconds=300)
    cluster.wait_for_dag(DAG)
    say(f"Airflow runs: {', '.join(cluster.components)}; its UI is at {cluster.url}")
    kills = Kills(cluster, {"redis": redis, "postgresql": postgresql}, options.kills, say)
    gauges = Gauges(cluster)
    began = time.monotonic()
    with gauges:
        tasks = watch(cluster, api, kills, began + options.minutes * 60)
    wall = time.monotonic() - began
    return Outcome(
        rows=options.rows,
        state=state_of(tasks),
        loaded=int(postgresql.query("SELECT count(*) FROM answers")),
        right=int(postgresql.query(RIGHT)),
        stats=api.stats(),
        spans=[(batch["created"], batch["over"] or batch["created"]) for batch in api.timeline()],
        wall=wall,
        memory=gauges.memory,
        scratch=gauges.scratch,
        store=store.requests(BUCKET),
        kills=kills.done,
        tries={task["task_id"]: task["try_number"] for task in tasks},
        seconds={task["task_id"]: task["duration"] or 0.0 for task in tasks},
    )


def prepare(postgresql: PostgreSQL, store: Store, rows: int) -> None:
    """Make the databases, the tables and the bucket."""
    for database in ("airflow", "warehouse"):
        postgresql.query(f"CREATE DATABASE {database}", "postgres")
    postgresql.query(REVIEWS.format(rows=rows))
    keys = {"aws_access_key_id": "any-key", "aws_secret_access_key": "any-secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=store.url, **keys).create_bucket(Bucket=BUCKET)


def watch(cluster: Cluster, api: DevServerClient, kills: Kills, deadline: float) -> list[dict[str, Any]]:
    """Start a run, and kill things until it or the time is over; return its tasks."""
    run_id = cluster.trigger(DAG)
    tasks: list[dict[str, Any]] = []
    said = ""
    while state_of(tasks) not in OVER and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):  # the database may be away
            tasks = cluster.tasks(DAG, run_id)
        active = [task for task in tasks if task["state"] in {"running", "deferred"}]
        words = "; ".join(
            f"{task['task_id']} is {task['state']}, try {task['try_number']}" for task in active
        )
        if words and words != said:
            say(said := words)
        if active and api.timeline():  # before the first batch there is nothing to lose
            kills.step(active[0])
        for name in cluster.revive():
            say(f"ended by itself, and started again: {name}")
        time.sleep(0.5)
    return tasks


def state_of(tasks: list[dict[str, Any]]) -> str:
    """The state of the run, as its tasks show it."""
    states = {task["state"] for task in tasks}
    if states & {"failed", "upstream_failed"}:
        return "failed"
    return "success" if states == {"success"} else "running"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
