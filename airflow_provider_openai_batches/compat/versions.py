"""Differences between Airflow 3.0 and 3.4, detected from Airflow itself."""

from __future__ import annotations

from airflow.triggers.base import BaseTrigger

# Since 3.3 Airflow tells a trigger that its task was killed; earlier versions only cancel the trigger.
TRIGGERS_HAVE_ON_KILL = hasattr(BaseTrigger, "on_kill")
