"""What each provider's process does in a benchmark: become a worker, report in JSON, discard logs."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def report(what: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(what) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def become_a_worker(conn_id: str) -> None:
    """Import and do what every worker has done before it runs its task."""
    importlib.import_module("airflow.sdk.execution_time.task_runner")
    sdk = importlib.import_module("airflow.providers.common.compat.sdk")
    sdk.BaseHook.get_connection(conn_id)
    sdk.get_hook_lineage_collector()  # loads Airflow's plugins, as the listeners of any task do


def quiet_logs() -> None:
    """Format log lines as a worker does, and discard them."""
    from airflow.sdk.log import configure_logging  # noqa: PLC0415 - Airflow is imported when it is measured

    discarded = Path(os.devnull).open("wb")  # noqa: SIM115 - until the process ends
    configure_logging(json_output=True, output=discarded, log_level="INFO", sending_to_supervisor=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def context(dag_id: str, task_id: str) -> dict[str, Any]:
    """Stand in for Airflow's context of a first try."""
    ti = SimpleNamespace(
        dag_id=dag_id,
        task_id=task_id,
        run_id="run",
        map_index=-1,
        try_number=1,
        max_tries=0,
        xcom_push=lambda *_, **__: None,
    )
    return {"ti": ti, "task_instance": ti, "dag_run": SimpleNamespace(run_after=datetime.now(UTC))}
