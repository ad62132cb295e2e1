"""
Counts and times through Airflow's own stats: StatsD, Datadog or OpenTelemetry, whatever is configured.

All names begin with ``openai_batches.``. The tags are Airflow's own ``dag_id`` and ``task_id``, and the
batch's ``model``, and of costs the ``way``; a tag that a batch does not give is left out.

Nothing here raises: a lost metric must not fail a task.

https://airflow.apache.org/docs/apache-airflow/stable/administration-and-deployment/logging-monitoring/metrics.html
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.idempotency.keys import Origin, model_of
from airflow_provider_openai_batches.pricing.account import cost_of

if TYPE_CHECKING:
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.pricing.cost import Way
    from airflow_provider_openai_batches.pricing.prices import Prices

log = logging.getLogger(__name__)
# These end a tag in the InfluxDB format of StatsD; Airflow logs an error for such a tag and drops it.
_BREAKS_A_TAG = frozenset(",=\n")


def batch_created(batch: Batch) -> None:
    """Count a batch that was created."""
    _incr("batch.created", 1, _tags(batch))


def batch_adopted(batch: Batch) -> None:
    """Count an existing batch that is used: of an earlier try, or one whose creation got no answer."""
    _incr("batch.adopted", 1, _tags(batch))


def batch_over(batch: Batch, prices: Prices | None = None) -> None:
    """
    Count a batch that ended: status, requests by outcome, tokens by kind, cost, duration in milliseconds.

    Call this once for each batch, when its task learns of the end.

    :param prices: of its connection; None: its cost is not counted.
    """
    tags = _tags(batch)
    _incr(f"batch.{batch.status}", 1, tags)
    counts, usage = batch.counts, batch.usage
    _incr("requests.completed", counts.completed, tags)
    _incr("requests.failed", counts.failed, tags)
    _incr("requests.unfinished", counts.total - counts.completed - counts.failed, tags)
    if usage:
        _incr("tokens.input", usage.input_tokens, tags)
        _incr("tokens.output", usage.output_tokens, tags)
        if usage.input_tokens_details:
            _incr("tokens.cached", usage.input_tokens_details.cached_tokens, tags)
        if usage.output_tokens_details:
            _incr("tokens.reasoning", usage.output_tokens_details.reasoning_tokens, tags)
    if prices is not None:
        _cost_of(batch, prices)
    ended_at = getattr(batch, f"{batch.status}_at", None)
    if ended_at and batch.created_at:
        _send("timing", "batch.duration", max(0, ended_at - batch.created_at) * 1000.0, tags)


def _cost_of(batch: Batch, prices: Prices) -> None:
    spent = cost_of(batch, prices)
    if spent is not None:  # without a price it is zero, and not sent
        origin = Origin.of(batch)
        cost(spent.usd, origin.dag_id, origin.task_id, model_of(batch), "batch")


def cost(usd: float, dag_id: str | None, task_id: str | None, model: str | None, way: Way) -> None:
    """
    Count what requests cost, where that is known.

    :param usd: US dollars. All of Airflow's backends send a counter's fractions as they are.
    :param way: how the requests were sent.
    """
    _incr("cost", usd, _tagged(dag_id=dag_id, task_id=task_id, model=model, way=way))


def waits(number: int, conn_id: str | None = None) -> None:
    """Report the number of batches that a triggerer process is waiting for, on one connection."""
    _send("gauge", "poller.waits", number, {"conn_id": conn_id} if conn_id else {})


def poll_round(requests: int, rate_limited: int = 0, conn_id: str | None = None) -> None:
    """
    Count a round of polling, in which a poller asked about the batches that were due.

    :param requests: the number of requests that this took.
    :param rate_limited: the number of them that were answered with 429.
    """
    tags = {"conn_id": conn_id} if conn_id else {}
    _incr("poller.rounds", 1, tags)
    _incr("poller.requests", requests, tags)
    _incr("poller.rate_limited", rate_limited, tags)


def _tags(batch: Batch) -> dict[str, str]:
    origin = Origin.of(batch)
    return _tagged(dag_id=origin.dag_id, task_id=origin.task_id, model=batch.model)


def _tagged(**tags: str | None) -> dict[str, str]:
    return {name: value for name, value in tags.items() if value and not _BREAKS_A_TAG.intersection(value)}


def _incr(name: str, count: float | None, tags: dict[str, str]) -> None:
    if count and count > 0:
        _send("incr", name, count, tags)


def _send(method: str, name: str, value: float, tags: dict[str, Any]) -> None:
    try:
        from airflow.providers.common.compat.sdk import Stats  # noqa: PLC0415 - importing this module is cheap

        getattr(Stats, method)(f"openai_batches.{name}", value, tags=tags)
    except Exception:
        log.debug("The metric %s was not sent", name, exc_info=True)
