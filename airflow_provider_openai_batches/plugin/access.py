"""Which batches a user may see and cancel. Airflow's auth manager decides all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
)

from airflow_provider_openai_batches.compat.dag_tables import teams_by_dag
from airflow_provider_openai_batches.idempotency.keys import Origin, is_of
from airflow_provider_openai_batches.operators.base import deployment_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod

    from airflow_provider_openai_batches.api.models import Batch


class Rights(msgspec.Struct, frozen=True):
    """
    What one user may do with some batches of one connection.

    A batch belongs to its DAG if its key proves that this Airflow made it, and if it still knows that DAG.
    Any other batch belongs to the connection: whoever has its API key can write a DAG's name into metadata.
    """

    deployment_id: str
    known_dags: frozenset[str]
    readable_dags: frozenset[str]
    editable_dags: frozenset[str]
    may_read_connection: bool
    may_edit_connection: bool

    def knows_dag(self, batch: Batch) -> bool:
        return is_of(batch, self.deployment_id) and Origin.of(batch).dag_id in self.known_dags

    def may_read(self, batch: Batch) -> bool:
        if self.knows_dag(batch):
            return Origin.of(batch).dag_id in self.readable_dags
        return self.may_read_connection

    def may_cancel(self, batch: Batch) -> bool:
        if self.knows_dag(batch):
            return self.may_read(batch) and Origin.of(batch).dag_id in self.editable_dags
        return self.may_read_connection and self.may_edit_connection


def rights(user: Any, conn_id: str, batches: Iterable[Batch]) -> Rights:
    """What a user may do with these batches. Asks the auth manager and the metadata database; blocks."""
    manager = get_auth_manager()
    here = deployment_id()
    own = [Origin.of(batch).dag_id for batch in batches if is_of(batch, here)]
    teams = teams_by_dag(dag_id for dag_id in own if dag_id)

    def dags_that_allow(method: ResourceMethod, entity: DagAccessEntity | None) -> frozenset[str]:
        return frozenset(
            dag_id
            for dag_id, team in teams.items()
            if manager.is_authorized_dag(
                method=method,
                access_entity=entity,
                details=DagDetails(dag_id, team) if team else DagDetails(dag_id),
                user=user,
            )
        )

    connection = ConnectionDetails(conn_id=conn_id)
    return Rights(
        deployment_id=here,
        known_dags=frozenset(teams),
        readable_dags=dags_that_allow("GET", None),
        editable_dags=dags_that_allow("PUT", DagAccessEntity.TASK_INSTANCE),
        may_read_connection=manager.is_authorized_connection(method="GET", user=user, details=connection),
        may_edit_connection=manager.is_authorized_connection(method="PUT", user=user, details=connection),
    )
