"""
Where a task's process gets a tracer, and which span is the task's own.

Since Airflow 3.2 its spans go through OpenTelemetry's own provider, and it sends what is left when a task's
process ends. Airflow 3.0 and 3.1 have a tracer of their own, and send nothing at the end of a process.

https://airflow.apache.org/docs/apache-airflow/stable/administration-and-deployment/logging-monitoring/traces.html
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowConfigException, conf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Tracer

_NAME = "airflow_provider_openai_batches"


def traces_are_on() -> bool:
    """Whether this Airflow sends traces; not if its configuration cannot be read."""
    try:
        return bool(conf.getboolean("traces", "otel_on", fallback=False))
    except AirflowConfigException:
        return False


def carrier_of(ti: Any) -> dict[str, str]:
    """
    Return the W3C trace context of the span that Airflow makes of a task instance; empty if there is none.

    Airflow 3.0 and 3.1 make one of each process of a try, and later ones a single span of all.
    """
    carrier = getattr(ti, "context_carrier", None)
    return carrier if isinstance(carrier, dict) else {}


@contextmanager
def tracer() -> Iterator[Tracer]:
    """Return what makes spans; those that have ended are sent afterwards, or when the task's process ends."""
    try:
        airflows = importlib.import_module("airflow.traces.otel_tracer")
    except ModuleNotFoundError:
        from opentelemetry.trace import get_tracer  # noqa: PLC0415 - nothing is imported where traces are off

        yield get_tracer(_NAME)
        return
    kind = importlib.import_module("airflow.traces.tracer").Trace
    provider = airflows.get_otel_tracer(kind).get_otel_tracer_provider()
    try:
        yield provider.get_tracer(_NAME)
    finally:
        provider.shutdown()
