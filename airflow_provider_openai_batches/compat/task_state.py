"""What Airflow says of a task that was killed: whether somebody still waits for its batches."""

from __future__ import annotations

from typing import Any

# After these no try follows that could take up what the task has running.
OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def ask(dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
    """The states of a task in a run; those that were deleted are missing."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415 - only at a kill

    runs = RuntimeTaskInstance.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id])
    states: dict[str, str | None] = runs.get(run_id, {})
    return states


def name_among(ti: Any) -> str:
    """What a task instance is called among the states that :func:`ask` returns."""
    return str(ti.task_id) if ti.map_index is None or ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
