"""
What Airflow's metadata database says of the tasks whose batches the page shows.

Any task can write any XCom, and a custom backend can store something else there. So a value that is too long
is not even fetched, and one that is not what an inference task writes is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.compat.dag_tables import TaskKey, task_states, xcoms
from airflow_provider_openai_batches.idempotency.keys import Origin
from airflow_provider_openai_batches.inference.job_report import JOB_REPORT, SHOWN_RUNNING, JobReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.plugin.access import Rights

UNREADABLE = (ValueError, msgspec.MsgspecError, RecursionError)
# How many characters of JSON a report may have.
MAX_REPORT = 65_536
MAX_WORDS = 500
# JavaScript has no larger integers. No time and no cost is larger either.
MOST = 2**53


def tasks_of(batches: Iterable[Batch], allowed: Rights) -> list[TaskKey]:
    """Return the tasks that made these batches, as far as the user may see them, the newest first."""
    return list(dict.fromkeys(task_in(Origin.of(batch)) for batch in batches if _is_shown(batch, allowed)))


def jobs_of(tasks: Iterable[TaskKey], allowed: Rights) -> list[dict[str, Any]]:
    """Return how these tasks are, and what they report, as far as the user may see their DAGs. Blocks."""
    tasks = [task for task in dict.fromkeys(tasks) if task[0] in allowed.readable_dags]
    states = task_states(task for task in tasks if task[0] in allowed.dags_with_tasks)
    reports = xcoms((task for task in tasks if task[0] in allowed.dags_with_xcoms), JOB_REPORT, MAX_REPORT)
    return [
        {
            "origin": msgspec.to_builtins(Origin(*task)),
            "task": states[task]._asdict() if task in states else None,
            "report": report_in(reports[task]) if task in reports else None,
            "may_cancel": task[0] in allowed.editable_dags,
        }
        for task in tasks
    ]


def _is_shown(batch: Batch, allowed: Rights) -> bool:
    return allowed.knows_dag(batch) and allowed.may_read(batch)


def task_in(origin: Origin) -> TaskKey:
    """Return the task that an origin names as a whole."""
    return origin.dag_id or "", origin.run_id or "", origin.task_id or "", origin.map_index


def report_in(stored: str) -> dict[str, Any] | None:
    """Return the report in an XCom, as JSON; None for anything else."""
    try:
        report = msgspec.convert(decoded(stored), JobReport)
    except UNREADABLE:
        return None
    shown: dict[str, Any] = msgspec.to_builtins(report)
    for name, value in shown.items():
        if isinstance(value, str):
            shown[name] = value[:MAX_WORDS]
        elif isinstance(value, list):
            shown[name] = [item[:MAX_WORDS] for item in value[:SHOWN_RUNNING]]
        elif not is_count(value["usd"] if isinstance(value, dict) else value or 0):
            return None
    return shown


def decoded(stored: str) -> Any:
    """
    Return the value of an XCom.

    Tasks store it as JSON. Airflow's own code may store a string with JSON in it.

    :raises ValueError: (or another of ``UNREADABLE``) if it is not JSON.
    """
    value = msgspec.json.decode(stored)
    return msgspec.json.decode(value) if isinstance(value, str) else value


def is_count(value: object) -> bool:
    """Whether a value is a number that can be shown: not negative, not endless."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST
