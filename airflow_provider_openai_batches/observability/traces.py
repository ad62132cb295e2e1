"""
Spans through Airflow's own OpenTelemetry traces: one for a job, one for each of its batches.

A job takes hours and several processes, so its spans are made when it is over, with the times that they had.
Names and attributes are those of OpenTelemetry's conventions for generative AI where these have any, and
``openai_batches.*`` otherwise; no prompt, no answer and no message of an error is in them. The tokens of a
job are under names of this provider, because those of its batches would otherwise be counted twice.

Nothing here raises: a lost span must not fail a task. Without traces nothing is done, and OpenTelemetry is
not imported.

https://github.com/open-telemetry/semantic-conventions-genai/tree/main/docs/gen-ai
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.compat import tracing
from airflow_provider_openai_batches.compat.tracing import tracer, traces_are_on
from airflow_provider_openai_batches.idempotency.keys import model_of
from airflow_provider_openai_batches.pricing.account import cost_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.trace import Span, Tracer

    from airflow_provider_openai_batches.api.config import ClientConfig
    from airflow_provider_openai_batches.api.models import Batch
    from airflow_provider_openai_batches.pricing.cost import Cost
    from airflow_provider_openai_batches.pricing.prices import Prices

    Carrier: TypeAlias = Mapping[str, str] | None

log = logging.getLogger(__name__)
# A job has a span for so many of its batches at most. OpenTelemetry keeps 2,048 until they are sent.
MAX_BATCHES = 1_000
MAX_TEXT = 200
OURS = "openai_batches"
_WORKFLOW = "invoke_workflow"
# The providers that the conventions name, by the end of their host.
_PROVIDERS = {
    ".openai.azure.com": "azure.ai.openai",
    ".cognitiveservices.azure.com": "azure.ai.openai",
    ".groq.com": "groq",
    ".mistral.ai": "mistral_ai",
}
_PORTS = {"http": 80, "https": 443}


class BatchSpan(NamedTuple):
    """
    What a span says about a batch; times are Unix seconds.

    :param model: the one that its requests name; ``answered_by`` is the one that the service names.
    :param counts: requests: all, completed, failed.
    :param cost: in US dollars; None if it is unknown.
    :param error: the code of its error, or how it ended; None if it completed.
    :param more: by names without the prefix of this provider.
    """

    batch_id: str
    status: str
    endpoint: str
    began: float
    ended: float
    model: str | None = None
    answered_by: str | None = None
    counts: tuple[int, int, int] = (0, 0, 0)
    usage: Usage | None = None
    cost: float | None = None
    error: str | None = None
    more: Mapping[str, Any] = {}


class JobSpan(NamedTuple):
    """
    What a span says about a job; times are Unix seconds.

    :param name: for people, and the same for each run.
    :param error: the kind of error that it failed with; None if it is complete.
    :param attributes: more of them.
    """

    name: str
    base_url: str
    began: float
    ended: float
    error: str | None
    batches: Sequence[BatchSpan]
    attributes: Mapping[str, Any]


def carrier_of(ti: Any) -> dict[str, str]:
    """Return the W3C trace context of a task's own span; empty if there is none, or traces are off."""
    return tracing.carrier_of(ti) if traces_are_on() else {}


def batches_over(
    batches: Iterable[Batch],
    context: Mapping[str, Any],
    config: ClientConfig,
    prices: Prices,
    carrier: Carrier,
) -> None:
    """
    Make a span for each batch that a task has waited for.

    :param context: Airflow's.
    :param carrier: of the task's own span, from the process in which the try began; None: it is this one.
    """
    if not traces_are_on():
        return
    try:
        ti = context["ti"]
        spans = [_of_batch(batch, prices, time.time()) for batch in batches]
        more = {**_server(config.base_url), **_task(ti)}
        with tracer() as made_by:
            parent = _parent(carrier or carrier_of(ti))
            for each in spans:
                _make(made_by, each, parent, more)
    except Exception:
        log.debug("The spans of batches were not made", exc_info=True)


def job_over(describe: Callable[[], JobSpan], carrier: Carrier) -> bool:
    """
    Make a span for a job that is over, and below it one for each of its batches.

    :param describe: is called where traces are on.
    :param carrier: of the task's own span, see :func:`carrier_of`; without one the process's current span is
        the parent, if it has any.
    :return: whether they were made.
    """
    try:
        if not traces_are_on():
            return False
        job = describe()
        with tracer() as made_by:
            _make_job(made_by, job, _parent(carrier))
    except Exception:
        log.debug("The spans of a job were not made", exc_info=True)
        return False
    return True


def _make_job(made_by: Tracer, job: JobSpan, parent: Any) -> None:
    from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - nothing is imported where traces are off

    shown = sorted(job.batches, key=lambda batch: batch.error is None)[:MAX_BATCHES]
    server = _server(job.base_url)
    given = {
        "gen_ai.operation.name": _WORKFLOW,
        "gen_ai.workflow.name": job.name,
        **server,
        f"{OURS}.batches.total": len(job.batches),
        f"{OURS}.batches.shown": len(shown),
        **job.attributes,
    }
    began = min([job.began, *(batch.began for batch in shown)])
    name = _text(f"{_WORKFLOW} {job.name}")
    span = made_by.start_span(name, parent, start_time=_nanoseconds(began), attributes=_clean(given))
    below = set_span_in_context(span)
    for each in shown:
        _make(made_by, each, below, server)
    _end(span, job.ended, job.error)


def _of_batch(batch: Batch, prices: Prices, now: float) -> BatchSpan:
    counts, cost = batch.counts, cost_of(batch, prices)
    items = batch.error_items
    ended = getattr(batch, f"{batch.status}_at", None) or now
    return BatchSpan(
        batch.id,
        batch.status,
        batch.endpoint or "",
        batch.created_at or ended,
        ended,
        answered_by=model_of(batch),
        counts=(counts.total, counts.completed, counts.failed),
        usage=Usage.of_batch(batch.usage),
        cost=known(cost),
        error=error_of(batch.status, items[0].code if items else None),
    )


def known(cost: Cost | None) -> float | None:
    """Return what something cost, where all of it is known."""
    return cost.usd if cost is not None and cost.is_known else None


def error_of(status: str, code: str | None) -> str | None:
    """Return the kind of error that a batch ended with; None if it completed."""
    return None if status == "completed" else code or status


def usage_attributes(usage: Usage, prefix: str = "gen_ai") -> dict[str, Any]:
    """Return the tokens under the names of the conventions; the input has those of the cache."""
    return {
        f"{prefix}.usage.input_tokens": usage.input_tokens,
        f"{prefix}.usage.cache_read.input_tokens": usage.cached_tokens or None,
        f"{prefix}.usage.cache_write.input_tokens": usage.cache_write_tokens or None,
        f"{prefix}.usage.output_tokens": usage.output_tokens,
        f"{prefix}.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
    }


def _make(made_by: Tracer, batch: BatchSpan, context: Any, more: Mapping[str, Any]) -> None:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - nothing is imported where traces are off

    spec = spec_of(batch.endpoint or "/batch")  # where the service does not name it
    operation, model = spec.operation or spec.path, batch.model or batch.answered_by
    total, completed, failed = batch.counts
    given = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": model,
        "gen_ai.response.model": batch.answered_by,
        "openai.api.type": spec.path.replace("/", "_") if operation == "chat" else None,
        **(usage_attributes(batch.usage) if batch.usage else {}),
        f"{OURS}.batch_id": batch.batch_id,
        f"{OURS}.status": batch.status,
        f"{OURS}.endpoint": batch.endpoint or None,
        f"{OURS}.requests.total": total,
        f"{OURS}.requests.completed": completed,
        f"{OURS}.requests.failed": failed,
        f"{OURS}.cost_usd": batch.cost,
        **{f"{OURS}.{name}": value for name, value in batch.more.items()},
        **more,
    }
    span = made_by.start_span(
        _text(f"{operation} {model}" if model else operation),
        context=context,
        kind=SpanKind.CLIENT,
        start_time=_nanoseconds(batch.began),
        attributes=_clean(given),
    )
    _end(span, max(batch.began, batch.ended), batch.error)


def _end(span: Span, ended: float, error: str | None) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - nothing is imported where traces are off

    if error is not None:
        span.set_attribute("error.type", _text(error))
        span.set_status(Status(StatusCode.ERROR))
    span.end(_nanoseconds(ended))


def _parent(carrier: Carrier) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 - as above

    return TraceContextTextMapPropagator().extract(carrier) if carrier else None


def task_attributes(
    dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int
) -> dict[str, Any]:
    """Return the task under the names that Airflow's own spans have."""
    return {
        "airflow.dag_id": dag_id,
        "airflow.dag_run.run_id": run_id,
        "airflow.task_id": task_id,
        "airflow.task_instance.map_index": map_index,
        "airflow.task_instance.try_number": try_number,
    }


def _task(ti: Any) -> dict[str, Any]:
    map_index = -1 if ti.map_index is None else ti.map_index
    return task_attributes(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.try_number)


def _server(base_url: str) -> dict[str, Any]:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    provider = (name for end, name in _PROVIDERS.items() if host.endswith(end))
    return {
        "gen_ai.provider.name": next(provider, "openai"),
        "server.address": host,
        "server.port": parts.port or _PORTS.get(parts.scheme),
    }


def _clean(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _text(value) for name, value in given.items() if value is not None}


def _text(value: Any) -> Any:
    return value[:MAX_TEXT] if isinstance(value, str) else value


def _nanoseconds(moment: float) -> int:
    return int(moment * 1e9)
