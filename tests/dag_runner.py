"""
Runs DAGs in Airflow's own test runner, in a process of its own: ``dag_runner.py FILE CONF``.

It parses the file, serializes its DAGs into the metadata database, runs one after the other, and prints the
final state of each task.

Without arguments it does so for each line of its input, ``{"path": …, "conf": {…}, "environment": {…}}``. The
first run in a process takes seconds, in which Airflow builds its API, and each later one a part of one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from airflow.models.dagbundle import DagBundleModel
from airflow.utils.session import create_session

BUNDLE = "tests"


def dag_bag_module() -> Any:
    """Import the module of DagBag, which moved in Airflow 3.2."""
    try:
        return importlib.import_module("airflow.dag_processing.dagbag")
    except ModuleNotFoundError:
        return importlib.import_module("airflow.models.dagbag")


def run(path: str, conf: dict[str, Any]) -> dict[str, str]:
    module = dag_bag_module()
    bag = module.DagBag(path)
    assert not bag.import_errors, bag.import_errors
    with create_session() as session:
        session.merge(DagBundleModel(name=BUNDLE))
    if hasattr(module, "sync_bag_to_db"):
        module.sync_bag_to_db(bag, BUNDLE, None)
    else:  # Airflow 3.0
        bag.sync_to_db(BUNDLE, None)
    runs = [dag.test(run_conf=conf) for dag in bag.dags.values()]
    return {ti.task_id: str(ti.state) for dag_run in runs for ti in dag_run.get_task_instances()}


def serve() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        os.environ.clear()
        os.environ.update(job["environment"])
        try:
            states = run(job["path"], job["conf"])
        except Exception:  # noqa: BLE001 - the test shows it
            traceback.print_exc()
            states = {}
        print("\nRESULT", json.dumps(states), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("RESULT", json.dumps(run(sys.argv[1], json.loads(sys.argv[2]))))  # noqa: T201 - the test reads it
    else:
        serve()
