"""Which Airflow shows the pages of plugins: 3.1 was the first one."""

from __future__ import annotations


def has_pages() -> bool:
    """Whether the page of this provider is in Airflow's UI."""
    from airflow.providers.common.compat.sdk import AirflowPlugin  # noqa: PLC0415 - not when a DAG is parsed

    return hasattr(AirflowPlugin, "external_views")
