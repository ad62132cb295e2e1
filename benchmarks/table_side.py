"""Loads the results in a directory into a table, as a worker does: ``table_side.py DIRECTORY``."""

from __future__ import annotations

import resource
import sys
import time

import side

from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    side.become_a_worker("warehouse")
    side.quiet_logs()
    before = peak_megabytes()
    load = OpenAIBatchResultsToSqlOperator(
        task_id="load",
        results=sys.argv[1],
        conn_id="warehouse",
        table="labels",
        columns={"label": "output"},
    )
    began = time.perf_counter()
    load.execute(side.context("benchmark", "load"))  # type: ignore[arg-type]
    side.report({"seconds": time.perf_counter() - began, "megabytes": peak_megabytes() - before})


if __name__ == "__main__":
    main()
