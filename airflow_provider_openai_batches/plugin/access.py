"""Who may see and who may cancel which batch: asked of Airflow's auth manager, and decided nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
)
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_openai_batches.plugin.view import Origin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod

    from airflow_provider_openai_batches.api.models import Batch


class Rights(msgspec.Struct, frozen=True):
    """
    What one user may do with some batches of one connection.

    A batch whose DAG this Airflow knows belongs to that DAG. Any other batch belongs to the connection.
    """

    known_dags: frozenset[str]
    readable_dags: frozenset[str]
    editable_dags: frozenset[str]
    may_read_connection: bool
    may_edit_connection: bool

    def knows_dag(self, batch: Batch) -> bool:
        return Origin.of(batch).dag_id in self.known_dags

    def may_read(self, batch: Batch) -> bool:
        if self.knows_dag(batch):
            return Origin.of(batch).dag_id in self.readable_dags
        return self.may_read_connection

    def may_cancel(self, batch: Batch) -> bool:
        if self.knows_dag(batch):
            return self.may_read(batch) and Origin.of(batch).dag_id in self.editable_dags
        return self.may_read_connection and self.may_edit_connection


def rights(user: Any, conn_id: str, batches: Iterable[Batch]) -> Rights:
    """Ask the auth manager; blocks, for it and the metadata database."""
    manager = get_auth_manager()
    named = {dag_id for batch in batches if (dag_id := Origin.of(batch).dag_id)}
    with create_session() as session:
        known = set(session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.in_(named))))
    # Airflow has teams from 3.2 on.
    team_names = getattr(DagModel, "get_dag_id_to_team_name_mapping", None)
    teams = team_names(list(known)) if team_names and known else {}

    def may(method: ResourceMethod, entity: DagAccessEntity | None) -> frozenset[str]:
        return frozenset(
            dag_id
            for dag_id in known
            if manager.is_authorized_dag(
                method=method,
                access_entity=entity,
                details=DagDetails(dag_id, teams[dag_id]) if teams.get(dag_id) else DagDetails(dag_id),
                user=user,
            )
        )

    connection = ConnectionDetails(conn_id=conn_id)
    return Rights(
        known_dags=frozenset(known),
        readable_dags=may("GET", None),
        editable_dags=may("PUT", DagAccessEntity.TASK_INSTANCE),
        may_read_connection=manager.is_authorized_connection(method="GET", user=user, details=connection),
        may_edit_connection=manager.is_authorized_connection(method="PUT", user=user, details=connection),
    )


def run_began(dag_id: str, run_id: str) -> float | None:
    """The time in Unix seconds before which a run has no batch; None for an unknown run. Blocks."""
    names = ("created_at", "run_after", "queued_at", "start_date")  # the first is there from Airflow 3.2 on
    columns = [getattr(DagRun, name) for name in names if hasattr(DagRun, name)]
    query = select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    with create_session() as session:
        row = session.execute(query).first()
    times = [time.timestamp() for time in row or () if time is not None]
    return min(times, default=None)
