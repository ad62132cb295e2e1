"""The hook of a database's connection, for those who read rows from it and those who write results to it."""

from __future__ import annotations

from typing import Any

from airflow_provider_openai_batches.exceptions import InvalidInputError


def database_of(conn_id: str) -> tuple[str, Any]:
    """
    Return the type of a connection, and its hook.

    :param conn_id: an Airflow connection to a database.
    :raises InvalidInputError: if it is missing, there is no hook for it, or it is no database.
    """
    from airflow.providers.common.compat.sdk import (  # noqa: PLC0415 - only tasks with a database need it
        AirflowException,
        AirflowNotFoundException,
        BaseHook,
    )

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise InvalidInputError(f"There is no connection {conn_id!r} ({error})") from error
    kind = str(connection.conn_type)
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
    except (AirflowException, AttributeError, ImportError) as error:
        # Airflow gives each type that it does not know the type generic, which raises an AttributeError.
        database = "postgres" if kind == "generic" else kind
        then = " Then set the connection's type again." if kind == "generic" else ""
        raise InvalidInputError(
            f"The connection {conn_id!r} has the type {kind!r}, for which there is no hook ({error}). "
            f"Install the provider of that database, for example apache-airflow-providers-{database}.{then}"
        ) from error
    if not hasattr(hook, "get_conn") or not hasattr(hook, "get_records"):
        raise InvalidInputError(f"The connection {conn_id!r} has the type {kind!r}, which is not a database.")
    return kind, hook
