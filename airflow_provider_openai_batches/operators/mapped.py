"""What the instances of a mapped task share although each needs its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

# Names in templates whose values are the same for all instances of a mapped task. Others may tell them apart.
_OF_THE_RUN = frozenset(
    [
        "conn",
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "execution_date",
        "expanded_ti_count",
        "inlet_events",
        "inlets",
        "logical_date",
        "outlet_events",
        "outlets",
        "params",
        "prev_data_interval_end_success",
        "prev_data_interval_start_success",
        "prev_end_date_success",
        "prev_start_date_success",
        "run_id",
        "test_mode",
        "triggering_asset_events",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    ]
)


def refuse_what_instances_share(operator: Any, context: Context) -> None:
    """
    Refuse a mapped inference task whose instances would write over each other's results.

    It is known before the first instance sends anything: a directory, or a table that is emptied, which is
    named by ``partial()``, without anything that differs from instance to instance.

    :raises InvalidInputError: naming the argument, and saying what to write.
    """
    map_index = getattr(context["ti"], "map_index", None)
    if map_index is None or map_index < 0:
        return
    if (uri := _shared(operator, "output_uri")) is not None:
        raise InvalidInputError(
            f"This task is mapped, and output_uri={uri!r} is one directory for all its instances, which "
            "would delete each other's results. Nothing was sent. Give each its own: "
            f"output_uri='{uri.rstrip('/')}/{{{{ ti.map_index }}}}', or name output_uri in expand()"
        )
    if operator.output_mode == "replace" and (table := _shared(operator, "output_table")) is not None:
        raise InvalidInputError(
            "This task is mapped, and with output_mode='replace' each of its instances would empty "
            f"output_table={table!r} of the others' rows. Nothing was sent. Use 'upsert' or 'append', or "
            "load the results of all instances in one task: OpenAIBatchResultsToSqlOperator(results=….output)"
        )


def _shared(operator: Any, name: str) -> str | None:
    """Return the argument as the DAG has it, if that is the same for all instances; None: it may differ."""
    if not operator.has_dag():
        return None
    in_dag: Any = operator.dag.task_dict.get(operator.task_id)
    if in_dag is None or in_dag is operator:  # rendered already
        return None
    partial = getattr(in_dag, "partial_kwargs", None)
    value = getattr(in_dag, name, None) if partial is None else partial.get(name)
    if isinstance(value, str):
        return value if _is_of_the_run(operator, value) else None
    # An output of another task, or a function that makes the value, may differ; a path does not.
    return str(value) if hasattr(value, "joinpath") and _is_of_the_run(operator, str(value)) else None


def _is_of_the_run(operator: Any, template: str) -> bool:
    try:
        return _names(operator.get_template_env().parse(template)) <= _OF_THE_RUN
    except Exception:  # noqa: BLE001 - Airflow says it when it renders the template
        return False


def _names(node: Any) -> set[str]:
    """Return the names in a parsed template, without those of attributes and filters."""
    own = {node.name} if type(node).__name__ == "Name" else set()
    return own.union(*map(_names, node.iter_child_nodes()))
