"""
Runs a DAG in Airflow's own test runner, in a process of its own: ``dag_runner.py FILE CONF``.

It parses the file, serializes its DAGs into the metadata database, runs one after the other, and prints the
final state of each task.
"""

from __future__ import annotations

import importlib
import json
import sys
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


def main(path: str, conf: str) -> None:
    module = dag_bag_module()
    bag = module.DagBag(path)
    assert not bag.import_errors, bag.import_errors
    with create_session() as session:
        session.merge(DagBundleModel(name=BUNDLE))
    if hasattr(module, "sync_bag_to_db"):
        module.sync_bag_to_db(bag, BUNDLE, None)
    else:  # Airflow 3.0
        bag.sync_to_db(BUNDLE, None)
    runs = [dag.test(run_conf=json.loads(conf)) for dag in bag.dags.values()]
    states = {ti.task_id: str(ti.state) for run in runs for ti in run.get_task_instances()}
    print("RESULT", json.dumps(states))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
