"""``cost`` and ``estimate``: what batches cost, and what requests are going to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.cli.simple_table import AirflowConsole
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID
from airflow_provider_openai_batches.cli import tables
from airflow_provider_openai_batches.cli.commands import with_hook
from airflow_provider_openai_batches.cli.console import STRUCTURED, print_data, say
from airflow_provider_openai_batches.cli.request_file import counted
from airflow_provider_openai_batches.pricing.account import AccountCosts
from airflow_provider_openai_batches.pricing.cost import amount
from airflow_provider_openai_batches.pricing.estimate import Load, estimate
from airflow_provider_openai_batches.pricing.list_prices import list_price
from airflow_provider_openai_batches.pricing.prices import Prices

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable

    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
    from airflow_provider_openai_batches.inference.data.job import Job
    from airflow_provider_openai_batches.pricing.account import CostSum
    from airflow_provider_openai_batches.pricing.cost import Way
    from airflow_provider_openai_batches.pricing.estimate import Estimate

LIVE = "Answers that were asked live are no batches: manifest.json of their job says what they cost."

# So many models without a price are named.
_SHOWN = 10


@with_hook
def show_costs(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches cost``."""
    prices = Prices.of(hook.config)
    costs = AccountCosts(args.by or ["dag"], prices)
    for batch in hook.iter_batches_since(args.since):
        if batch.created_at is None or batch.created_at >= args.since:
            costs.add(batch)
    groups, others = costs.groups(args.limit)
    if args.output in STRUCTURED:
        named = [
            {"group": dict(zip(costs.columns, names, strict=True)), **group.to_dict()}
            for names, group in groups
        ]
        found = {
            "since": datetime.fromtimestamp(args.since, UTC).isoformat(),
            "groups": named,
            "others": others and others.to_dict(),
            "total": costs.total.to_dict(),
        }
        print_data(found, args.output)
    else:
        # A key of metadata may have the name of a column that follows.
        columns = [f"metadata.{name}" if name in _figures(costs.total) else name for name in costs.columns]
        columns = list(map(tables.text, columns))
        lines = [_line(columns, names, group) for names, group in groups]
        lines += [_line(columns, ("all others",), others)] if others else []
        AirflowConsole().print_as([*lines, _line(columns, ("total",), costs.total)], args.output)
    for note in (*_missing(costs.total, prices), LIVE):
        say(note)
    return 0


def _line(columns: list[str], names: Iterable[str | None], group: CostSum) -> dict[str, str]:
    shown = [tables.text("-" if name is None else name) for name in names]
    shown += [""] * (len(columns) - len(shown))
    return {**dict(zip(columns, shown, strict=True)), **_figures(group)}


def _figures(group: CostSum) -> dict[str, str]:
    return {
        "batches": f"{group.batches:,}",
        "completed": f"{group.completed:,}",
        "failed": f"{group.failed:,}",
        "input": f"{group.usage.input_tokens:,}",
        "cached": f"{group.usage.cached_tokens:,}",
        "output": f"{group.usage.output_tokens:,}",
        "cost": str(group),
    }


def _missing(total: CostSum, prices: Prices) -> list[str]:
    """Say what is not in a sum, and why."""
    notes = []
    if total.running:
        notes.append(f"Batches that still run, and cost more by their end: {total.running:,}.")
    if total.unmetered:
        notes.append(f"Batches of unknown cost, because they do not say what they used: {total.unmetered:,}.")
    return notes + _unpriced(total.unpriced, prices)


def _unpriced(models: Iterable[str], prices: Prices) -> list[str]:
    named = sorted(models)
    more = f" and {len(named) - _SHOWN:,} more" if len(named) > _SHOWN else ""
    shown = ", ".join(named[:_SHOWN]) + more
    return [f"Without a price: {shown}. To have one: {prices.hint}."] if named else []


@with_hook
def estimate_file(args: Namespace, hook: OpenAIBatchesHook) -> int:
    """``airflow openai-batches estimate``."""
    prices = _prices(args, hook)
    job = counted(args.file, args.endpoint, args.model)
    batch, live = (_estimate(job, prices, way, args.output_tokens) for way in ("batch", "live"))
    if args.output in STRUCTURED:
        print_data(_estimated(job, batch, live), args.output)
    else:
        AirflowConsole().print_as(_lines(job, batch, live), args.output)
    if batch.output_tokens is None:
        say(
            "Nobody knows how many output tokens there will be: only the input is in the cost. Give "
            "--output-tokens for each request, or a limit such as max_completion_tokens in the bodies."
        )
    for note in (*_unpriced(batch.cost.unpriced, prices), "Nothing was sent."):
        say(note)
    return 0


def _estimate(job: Job, prices: Prices, way: Way, per_request: float | None) -> Estimate:
    loads = [
        Load(
            model=shard.model,
            way=way,
            requests=shard.requests,
            input_tokens=shard.estimated_tokens,
            most_output_tokens=shard.most_output_tokens,
        )
        for shard in job.shards
    ]
    return estimate(loads, prices, per_request=per_request, basis="given")


def _prices(args: Namespace, hook: OpenAIBatchesHook) -> Prices:
    """Return the connection's prices; before there is one, those of OpenAI."""
    try:
        return Prices.of(hook.config)
    except AirflowNotFoundException:
        if args.conn_id != DEFAULT_CONN_ID:
            raise
    say(f"There is no connection {args.conn_id!r} yet: these are OpenAI's list prices.")
    return Prices({}, listed=list_price)


def _estimated(job: Job, batch: Estimate, live: Estimate) -> dict[str, Any]:
    return {
        "rows": job.rows,
        "batches": len(job.shards),
        "input_tokens": batch.input_tokens,
        "output_tokens": batch.output_tokens,
        "basis": batch.basis,
        "is_known": batch.is_known,
        "models_without_price": batch.cost.unpriced,
        "cost_usd": {"batch": batch.cost.usd, "live": live.cost.usd},
    }


def _lines(job: Job, batch: Estimate, live: Estimate) -> list[dict[str, str]]:
    output = "unknown" if batch.output_tokens is None else f"{batch.output_tokens:,}"
    why = {"most": "the most that the requests allow", "given": "--output-tokens for each request"}
    values = {
        "rows": f"{job.rows:,}",
        "batches": f"{len(job.shards):,}",
        "input tokens": f"{batch.input_tokens:,} (estimated: a token for four bytes of a body)",
        "output tokens": f"{output} ({why[batch.basis]})" if batch.output_tokens else output,
        "cost in batches": amount(batch.cost.usd, is_known=batch.is_known),
        "cost live": amount(live.cost.usd, is_known=live.is_known),
    }
    return [{"estimate": name, "value": value} for name, value in values.items()]
