"""What differs between Airflow 3.0 and 3.4, found out from Airflow itself."""

from __future__ import annotations

from airflow.triggers.base import BaseTrigger

# From 3.3 on Airflow tells a trigger that its task was killed; before, it only cancels the trigger.
TRIGGERS_HAVE_ON_KILL = hasattr(BaseTrigger, "on_kill")
