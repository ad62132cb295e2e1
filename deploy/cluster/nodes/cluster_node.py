"""What a machine of the cluster calls itself, so that Airflow tells which one runs a task or a trigger."""

from __future__ import annotations

import os


def name() -> str:
    return os.environ.get("CLUSTER_NODE", "localhost")
