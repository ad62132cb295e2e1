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
    # The readable DAGs whose task instances, and whose XComs, may be read; empty if nobody asked.
    dags_with_tasks: frozenset[str] = frozenset()
    dags_with_xcoms: frozenset[str] = frozenset()

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


def rights(user: Any, conn_id: str, batches: Iterable[Batch], *, of_jobs: bool = False) -> Rights:
    """What a user may do with these batches; see :func:`rights_in`."""
    here = deployment_id()
    own = [Origin.of(batch).dag_id for batch in batches if is_of(batch, here)]
    return rights_in(user, conn_id, (dag_id for dag_id in own if dag_id), of_jobs=of_jobs)


def rights_in(user: Any, conn_id: str, dag_ids: Iterable[str], *, of_jobs: bool = False) -> Rights:
    """
    What a user may do with batches of these DAGs, and with others of the connection.

    Asks the auth manager and the metadata database; blocks.

    :param of_jobs: ask for task instances and XComs too.
    """
    manager = get_auth_manager()
    teams = teams_by_dag(dag_ids)

    def dags_that_allow(
        method: ResourceMethod, entity: DagAccessEntity | None, among: Iterable[str]
    ) -> frozenset[str]:
        return frozenset(
            dag_id
            for dag_id in among
            if manager.is_authorized_dag(
                method=method,
                access_entity=entity,
                details=DagDetails(dag_id, team) if (team := teams[dag_id]) else DagDetails(dag_id),
                user=user,
            )
        )

    connection = ConnectionDetails(conn_id=conn_id)
    readable = dags_that_allow("GET", None, teams)
    asked = readable if of_jobs else ()
    return Rights(
        deployment_id=deployment_id(),
        known_dags=frozenset(teams),
        readable_dags=readable,
        editable_dags=dags_that_allow("PUT", DagAccessEntity.TASK_INSTANCE, teams),
        may_read_connection=manager.is_authorized_connection(method="GET", user=user, details=connection),
        may_edit_connection=manager.is_authorized_connection(method="PUT", user=user, details=connection),
        dags_with_tasks=dags_that_allow("GET", DagAccessEntity.TASK_INSTANCE, asked),
        dags_with_xcoms=dags_that_allow("GET", DagAccessEntity.XCOM, asked),
    )
