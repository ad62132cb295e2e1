"""How long importing an operator takes in a DAG file, once Airflow itself is imported; medians."""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 11
MODULES = (
    "airflow_provider_openai_batches.operators.openai_batches",
    "airflow_provider_openai_batches.operators.inference",
    "airflow_provider_openai_batches.sensors.openai_batches",
    "airflow_provider_openai_batches.triggers.openai_batches",
    "airflow_provider_openai_batches.transfers.openai_batch_results_to_sql",
)
CODE = """
import importlib, sys, time
from airflow.sdk import DAG, BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator, conf, task
before = time.perf_counter()
importlib.import_module(sys.argv[1])
print((time.perf_counter() - before) * 1000)
"""


def milliseconds(module: str) -> float:
    runs = []
    for _ in range(RUNS):
        command = [sys.executable, "-W", "ignore", "-c", CODE, module]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(float(done.stdout.split()[-1]))
    return statistics.median(runs)


def main() -> None:
    print("| module | ms after airflow.sdk |\n| --- | --- |")
    for module in MODULES:
        print(f"| `{module}` | {milliseconds(module):.0f} |")


if __name__ == "__main__":
    main()
