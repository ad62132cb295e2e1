"""
What the metadata database knows about DAGs and their runs, and its audit log.

The tables differ between Airflow versions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.utils.session import create_session
from sqlalchemy import select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The column ``created_at`` came with Airflow 3.2.
_RUN_TIMES = ("created_at", "run_after", "queued_at", "start_date")
# Longer ids do not fit into the tables, and are no ids of Airflow.
_MAX_ID = 250


def teams_by_dag(dag_ids: Iterable[str]) -> dict[str, str | None]:
    """Return those of the DAGs that Airflow knows, each with the name of its team or None. Blocks."""
    with create_session() as session:
        known = list(session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.in_(set(dag_ids)))))
    # Teams came with Airflow 3.2.
    team_names = getattr(DagModel, "get_dag_id_to_team_name_mapping", None)
    teams = team_names(known) if team_names and known else {}
    return {dag_id: teams.get(dag_id) for dag_id in known}


def run_began(dag_id: str, run_id: str) -> float | None:
    """Return the Unix time before which the run cannot have made a batch; None for an unknown run. Blocks."""
    columns = [getattr(DagRun, name) for name in _RUN_TIMES if hasattr(DagRun, name)]
    query = select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    with create_session() as session:
        row = session.execute(query).first()
    times = [time.timestamp() for time in row or () if time is not None]
    return min(times, default=None)


def audit(
    event: str, user: Any, extra: Mapping[str, str], task: Mapping[str, str | int | None] | None = None
) -> None:
    """
    Write what a user does to Airflow's audit log. Blocks.

    :param extra: what it is done to.
    :param task: ``dag_id``, ``run_id``, ``task_id`` and ``map_index`` of the task that it is done to, if any.
    """
    of: dict[str, Any] = {
        field: value[:_MAX_ID] if isinstance(value, str) else value for field, value in (task or {}).items()
    }
    name = user.get_name()
    entry = Log(event=event, owner=name, owner_display_name=name, extra=json.dumps(dict(extra)), **of)
    with create_session() as session:
        session.add(entry)
