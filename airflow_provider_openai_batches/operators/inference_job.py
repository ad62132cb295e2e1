"""A job as a task of Airflow runs it: its settings and collaborators, and its report for others to see."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.exceptions import OpenAIBatchesError
from airflow_provider_openai_batches.idempotency.ledger import Ledger
from airflow_provider_openai_batches.idempotency.submit import Submitter
from airflow_provider_openai_batches.inference.job_context import config_of, settings_of, try_of
from airflow_provider_openai_batches.inference.job_report import JOB_REPORT, JobReport, Reporter, with_figures
from airflow_provider_openai_batches.inference.runner import Runner
from airflow_provider_openai_batches.inference.workspace import Workspace
from airflow_provider_openai_batches.operators.base import runs_on_one_machine, task_identity

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def runner_of(given: Any, context: Context, since: float | None, deployment_id: str) -> Runner:
    """
    Return what runs the job of a task, which can be killed from now on.

    :param given: the task's operator.
    :param since: Unix time since when the service may have batches of earlier tries; None: there are none.
    :param deployment_id: the deployment's id when the try began; "": it begins now.
    """
    listener = None if given.is_dry_run else partial(_push, context, given.openai_conn_id)
    try:
        return _runner_of(given, context, since, deployment_id, listener)
    except OpenAIBatchesError as error:
        Reporter(listener, given.log).ended(None, error)
        raise


def _push(context: Context, conn_id: str, report: JobReport) -> None:
    """
    Leave the report as an XCom of the task.

    A try can fail when nothing is known of its job any more, or not yet: the figures of its last report stay.
    """
    report = msgspec.structs.replace(report, conn_id=conn_id)
    if report.state == "failed" and not report.rows and (last := _last(context["ti"])):
        report = with_figures(report, last)
    context["ti"].xcom_push(JOB_REPORT, msgspec.to_builtins(report))


def _last(ti: Any) -> JobReport | None:
    """Return the last report of this try; Airflow deletes those of earlier ones."""
    index = -1 if ti.map_index is None else ti.map_index
    try:
        return msgspec.convert(
            ti.xcom_pull(task_ids=ti.task_id, key=JOB_REPORT, map_indexes=index), JobReport
        )
    except Exception:  # noqa: BLE001 - there is none, or it cannot be read: the new one says less
        return None


def _runner_of(
    given: Any,
    context: Context,
    since: float | None,
    deployment_id: str,
    listener: Any,
) -> Runner:
    if not given.is_dry_run:
        given.ready_to_be_killed(context)
    task = task_identity(context, deployment_id)
    place = Workspace(given.output_uri, task.task_key[:12], task=task)
    if since is not None and (first := place.claim.first_identity()):
        task, place = first, Workspace(given.output_uri, first.task_key[:12], task=first)
    ledger = None if since is None else Ledger(given.hook, task, since)
    submitter = Submitter(given.hook, task, ledger, given.log)
    given.submits_by(submitter)
    if place.is_local and not (place.output.is_absolute() and runs_on_one_machine()):
        from airflow_provider_openai_batches.operators.inference_faults import warn_of_local_output  # noqa: PLC0415 - rarely needed

        warn_of_local_output(place.output, given.log)
    settings = settings_of(
        given,
        config_of(given.hook, can_do_without=given.is_dry_run),
        must_end=given.must_end(context) if given.deferrable else None,
        **try_of(given, context["ti"]),
        key_columns=given.key_columns(),
    )
    return Runner(
        settings,
        place,
        submitter,
        given.log,
        since=since,
        check_start=given.check_table,
        listener=listener,
    )
