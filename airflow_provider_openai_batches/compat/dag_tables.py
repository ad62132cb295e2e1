"""
What the metadata database knows about DAGs, their runs and tasks, and its audit log.

The tables differ between Airflow versions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.state import State
from sqlalchemy import String, cast, func, select, tuple_

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy.sql import Select

# The column ``created_at`` came with Airflow 3.2.
_RUN_TIMES = ("created_at", "run_after", "queued_at", "start_date")
# Longer ids do not fit into the tables, and are no ids of Airflow.
_MAX_ID = 250
# How many tasks one query asks for.
_AT_ONCE = 100
_TASK = ("dag_id", "run_id", "task_id", "map_index")
_STATE = ("state", "try_number", "start_date", "end_date")
_ENDED = frozenset(state.value for state in State.finished)

# ``dag_id``, ``run_id``, ``task_id`` and ``map_index``.
TaskKey: TypeAlias = tuple[str, str, str, int]


class TaskState(NamedTuple):
    """How a task is: its state, the number of its try, and when that began and ended, in Unix seconds."""

    state: str | None
    try_number: int
    began: float | None
    ended: float | None

    @property
    def is_at_work(self) -> bool:
        """Whether it runs, waits, or is going to run; a task that was cleared has no state."""
        return self.state not in _ENDED


def teams_by_dag(dag_ids: Iterable[str]) -> dict[str, str | None]:
    """Return those of the DAGs that Airflow knows, each with the name of its team or None. Blocks."""
    possible = set(filter(_is_id, dag_ids))
    with create_session() as session:
        known = list(session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.in_(possible))))
    # Teams came with Airflow 3.2.
    team_names = getattr(DagModel, "get_dag_id_to_team_name_mapping", None)
    teams = team_names(known) if team_names and known else {}
    return {dag_id: teams.get(dag_id) for dag_id in known}


def run_began(dag_id: str, run_id: str) -> float | None:
    """Return the Unix time before which the run cannot have made a batch; None for an unknown run. Blocks."""
    if not (_is_id(dag_id) and _is_id(run_id)):
        return None
    columns = [getattr(DagRun, name) for name in _RUN_TIMES if hasattr(DagRun, name)]
    query = select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    with create_session() as session:
        row = session.execute(query).first()
    times = [time.timestamp() for time in row or () if time is not None]
    return min(times, default=None)


def task_states(tasks: Iterable[TaskKey]) -> dict[TaskKey, TaskState]:
    """Return how those of the tasks are that Airflow knows. Blocks."""
    columns: Any = [getattr(TaskInstance, name) for name in (*_TASK, *_STATE)]
    query = select(*columns)
    return {
        (row[0], row[1], row[2], row[3]): TaskState(row[4], row[5], _unix(row[6]), _unix(row[7]))
        for row in _of_tasks(query, TaskInstance, tasks)
    }


def xcoms(tasks: Iterable[TaskKey], key: str, most: int) -> dict[TaskKey, str]:
    """
    Return the XCom of this key of each task that has one, as the JSON that is stored. Blocks.

    :param most: a longer one is left out: any task can have written it, and it is not even fetched.
    """
    stored = cast(XComModel.value, String)
    columns: Any = [getattr(XComModel, name) for name in _TASK]
    query = select(*columns, stored).where(XComModel.key == key, func.length(stored) <= most)
    return {(row[0], row[1], row[2], row[3]): row[4] for row in _of_tasks(query, XComModel, tasks)}


def _of_tasks(query: Select[Any], model: Any, tasks: Iterable[TaskKey]) -> Iterator[Any]:
    """Yield the rows of these tasks; a query for each hundred tasks."""
    names = tuple_(*(getattr(model, name) for name in _TASK))
    possible = [task for task in dict.fromkeys(tasks) if all(map(_is_id, task[:3]))]
    for start in range(0, len(possible), _AT_ONCE):
        with create_session() as session:
            found = session.execute(query.where(names.in_(possible[start : start + _AT_ONCE]))).all()
        yield from found


def _is_id(text: str) -> bool:
    """Whether a text, which may come from anybody, can be an id; databases refuse to compare some others."""
    return (
        len(text) <= _MAX_ID and "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
    )


def _unix(time: datetime | None) -> float | None:
    return time.timestamp() if time is not None else None


def audit(
    user: Any, *entries: tuple[str, Mapping[str, str]], task: Mapping[str, str | int | None] | None = None
) -> None:
    """
    Write what a user does to Airflow's audit log. Blocks.

    :param entries: each an event, and what it is done to.
    :param task: ``dag_id``, ``run_id``, ``task_id`` and ``map_index`` of the task that it is done to, if any.
    """
    of: dict[str, Any] = {
        field: value[:_MAX_ID] if isinstance(value, str) else value for field, value in (task or {}).items()
    }
    name = user.get_name()
    with create_session() as session:
        session.add_all(
            Log(event=event, owner=name, owner_display_name=name, extra=json.dumps(dict(extra)), **of)
            for event, extra in entries
        )
