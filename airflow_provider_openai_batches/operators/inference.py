"""Rows in, results out: one deferrable task for a job of any size."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_provider_openai_batches.api import models
from airflow_provider_openai_batches.exceptions import BatchTimeout, OpenAIBatchesError
from airflow_provider_openai_batches.inference.settings import check_arguments
from airflow_provider_openai_batches.links import OpenAIBatchJobLink, store_job_link
from airflow_provider_openai_batches.operators.base import (
    began,
    first_event,
    no_retry_of_bad_input,
    search_since,
)
from airflow_provider_openai_batches.operators.inference_table import TableOutput
from airflow_provider_openai_batches.operators.mapped import refuse_what_instances_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_openai_batches.api.validation import FailOn
    from airflow_provider_openai_batches.idempotency.submit import Submitter
    from airflow_provider_openai_batches.inference.runner import Runner
    from airflow_provider_openai_batches.inference.settings import Then


class OpenAIBatchInferenceOperator(TableOutput):
    """
    Ask a model about each row of a table, a query, files or an iterable, and write one result for each row.

    The rows become request files within the limits of the service, and this one task submits all their
    batches and waits for them. Requests that expired, failed for a temporary reason, or have no result line
    are sent again. The results are written under ``output_uri`` in the order of the input. A later try
    continues where an earlier one ended: no request that has an answer is sent again.
    https://developers.openai.com/api/docs/guides/batch

    Rows and prompts are data and are never rendered: only ids, URIs, SQL and connection ids are templated.

    :param endpoint: for example ``/v1/responses`` or ``/v1/embeddings``. (templated)
    :param output_uri: a directory for the results, as a path or any URI of Airflow's object storage. Each
        task needs its own: ``s3://bucket/{{ run_id }}``, and in mapped tasks ``…/{{ ti.map_index }}``.
        All workers must reach it: until a job is done, its own files are there, in ``_job/``. (templated)
    :param requests: prompts, request bodies or whole request lines; with ``body``, rows. Any iterable, or the
        output of another task. Give exactly one of ``requests``, ``input_uri`` and ``sql``.
    :param input_uri: files of rows: JSONL and CSV (also gzipped), Parquet, and ``.txt`` and ``.md``, each of
        which is one row with the columns ``path`` and ``text``. One file, several, a glob, or a directory.
        (templated)
    :param sql: a query whose rows are asked about. It needs ``ORDER BY``: if another try finds the rows in
        another order, they are paid for again. (templated, also as a ``.sql`` file)
    :param sql_conn_id: an Airflow connection to a database. (templated)
    :param body: a request body with ``{column}`` placeholders at any depth, or a callable that takes a row.
    :param model: the model for bodies that do not name one. (templated)
    :param id_column: the column that becomes the ``custom_id``; default: ``row-0``, ``row-1``, …
    :param keep_columns: columns of the rows to write beside the results.
    :param output: ``"text"`` (the answer's text, embedding, …; with a schema, its value), or ``"body"`` for
        the whole body of the answer.
    :param output_format: ``"jsonl"``, or ``"parquet"``, which needs the extra ``[parquet]``.
    :param typed_output: in Parquet: an output has the type of its schema, a column ``output_text`` has what
        does not fit; vectors are lists of a fixed size if each row has one. Default: JSON in text, and lists.
    :param partition_by: a kept column: each of its values has a directory ``column=value/`` for its parts.
    :param output_table: when the job is complete, write its rows to this table, ``table`` or
        ``schema.table``, all of them or none, and once; what would not fit is refused before anything is
        spent. (templated)
    :param output_conn_id: an Airflow connection to the database of ``output_table``. (templated)
    :param output_columns: for each column of the table, where its values are: ``"output.city"``,
        ``"custom_id"``, a kept column. This and the next two are ``columns``, ``mode`` and ``key`` of
        :class:`.OpenAIBatchResultsToSqlOperator`.
    :param output_mode: ``"upsert"`` (the default), ``"append"`` or ``"replace"``.
    :param output_key: the column of the table, or columns, that tell rows apart; default: ``custom_id``.
    :param output_schema: a JSON schema or a pydantic model: it goes into each request, and each answer is
        checked. An answer that does not match gets the status ``invalid_output``, and its text as output.
    :param strict: hold the model to the schema; False sends schemas that strict mode refuses as they are.
    :param retry_invalid: ask again for answers that do not match.
    :param max_requests_per_batch: up to 50,000, which is the default.
    :param max_bytes_per_batch: up to 200,000,000 (200 MB), which is the default.
    :param max_embedding_inputs_per_batch: up to 50,000, which is the default.
    :param max_active_batches: how many batches of the job may be at the service at the same time.
    :param max_enqueued_tokens: how many prompt tokens of a model the account may have in line at the service;
        default: what the connection names, or what a rejection says.
    :param max_rounds: how many times requests are sent again if they expired, were cancelled, failed with
        408, 409, 429 or 5xx, or have no result line. A round in which the task was stopped does not count.
    :param mode: ``"batch"``, or ``"live"``: ask every row at the endpoint itself, at once and at the price of
        live requests.
    :param canary: ask this many of the first rows live before anything is submitted. If their answers would
        fail the task (``output_schema``, ``fail_on``), it fails at once, without a retry.
    :param answer_by: when every row is to have its answer: seconds or a timedelta after the first try, or a
        time. Then the batches that run are cancelled, and what they answered is kept. (templated)
    :param then: what happens to rows without an answer then: ``"live"``, the default, asks them live;
        ``"fail"`` fails the task, without a retry; ``"keep"`` gives them the status ``expired``.
    :param deduplicate: ask equal requests once; each of their rows gets the answer.
    :param answers_uri: a directory, as ``output_uri``, with answers that tasks share: a request that was
        answered before is not asked, and new answers go there. (templated)
    :param answers_max_age: seconds or a timedelta; a request with an older answer there is asked again.
        Default: an answer is never too old.
    :param max_requests: refuse a job with more rows than this.
    :param max_cost: US dollars: refuse a job that is estimated to cost more, or whose price is unknown. While
        it runs, nothing is sent that would pass it; then the task fails, and with a higher limit goes on.
    :param fail_on: ``"none"``: the task fails only if no row succeeded, or the service rejected a batch;
        ``"any"``: also if any row has no valid answer; a fraction: also if more than this fraction of the
        rows have none. The parts are written even then, but no manifest; a later try continues from there.
    :param dry_run: write the request files, count rows, bytes and tokens, and send nothing.
    :param overwrite: replace the results of another job in ``output_uri``.
    :param delete_input_files: delete the uploaded files when the job is complete.
    :param output_expires_after: seconds (3,600 to 2,592,000) after which the service deletes the results;
        default: what the service does by itself.
    :param input_expires_after: the same for the uploaded files.
    :param completion_window: ``24h`` at OpenAI. (templated)
    :param metadata: up to 11 pairs of strings for each batch. (templated)
    :param openai_conn_id: an Airflow connection of type ``openai_batches`` or ``openai``; default:
        ``openai_batches_default``. (templated)
    :param deferrable: wait in the triggerer (the default); if False, wait in the worker and hold its slot.
    :param poll_interval: seconds between two polls of a batch; default: 60.
    :param batch_timeout: seconds that one try may take in total; default: an hour past the batches' windows.
    :param cancel_on_kill: cancel all batches of the job when the task is stopped; default: True.
    :param cancel_on_timeout: cancel them when the time is up.
    :param reuse: use batches and results of earlier tries; if False, every try sends all requests.
    :return: a dict of output URI, parts, counts, tokens, batches, errors and times; small for any job size.
    :raises InvalidInputError: if an argument or a row is not valid, before anything is spent.
    :raises BatchFailed: as ``fail_on`` says, or if the service rejected a batch, once the others have ended.
    :raises BatchTimeout: if the time was up before the batches had ended.
    :raises AirflowFailException: if the canary fails, ``max_cost`` is reached, an endpoint has no live form,
        or, with ``then="fail"``, rows have no answer in time. No retry follows.
    """

    template_fields: Sequence[str] = (
        "endpoint",
        "output_uri",
        "input_uri",
        "sql",
        "sql_conn_id",
        "model",
        "completion_window",
        "metadata",
        "answer_by",
        "answers_uri",
        "output_table",
        "output_conn_id",
        "openai_conn_id",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "metadata": "json"}
    # A generator and a class cannot be copied, and need not be.
    shallow_copy_attrs: Sequence[str] = ("requests", "body", "output_schema")
    operator_extra_links = (OpenAIBatchJobLink(),)

    def __init__(
        self,
        *,
        endpoint: str,
        output_uri: Any,
        requests: Any = None,
        input_uri: Any = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        body: Any = None,
        model: str | None = None,
        id_column: str | None = None,
        keep_columns: Iterable[str] = (),
        output: str = "text",
        output_format: str = "jsonl",
        typed_output: bool = False,
        partition_by: str | None = None,
        output_schema: Any = None,
        strict: bool = True,
        retry_invalid: bool = False,
        max_requests_per_batch: int = models.MAX_REQUESTS,
        max_bytes_per_batch: int = models.MAX_FILE_BYTES,
        max_embedding_inputs_per_batch: int = models.MAX_EMBEDDING_INPUTS,
        max_active_batches: int = 100,
        max_enqueued_tokens: int | None = None,
        max_rounds: int = 3,
        mode: Literal["batch", "live"] = "batch",
        canary: int = 0,
        answer_by: float | timedelta | datetime | str | None = None,
        then: Then | None = None,
        deduplicate: bool = False,
        answers_uri: Any = None,
        answers_max_age: float | timedelta | None = None,
        max_requests: int | None = None,
        max_cost: float | None = None,
        fail_on: FailOn = "none",
        dry_run: bool = False,
        overwrite: bool = False,
        delete_input_files: bool = False,
        output_expires_after: int | Mapping[str, Any] | None = None,
        input_expires_after: int | Mapping[str, Any] | None = None,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        cancel_on_timeout: bool = True,
        reuse: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint = endpoint
        self.output_uri = output_uri
        self.requests = requests
        self.input_uri = input_uri
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.body = body
        self.model = model
        self.id_column = id_column
        self.keep_columns = keep_columns if isinstance(keep_columns, str) else list(keep_columns)
        self.output_kind = output  # the base class uses the names output and dry_run
        self.output_format = output_format
        self.typed_output = typed_output
        self.partition_by = partition_by
        self.output_schema = output_schema
        self.strict = strict
        self.retry_invalid = retry_invalid
        self.max_requests_per_batch = max_requests_per_batch
        self.max_bytes_per_batch = max_bytes_per_batch
        self.max_embedding_inputs_per_batch = max_embedding_inputs_per_batch
        self.max_active_batches = max_active_batches
        self.max_enqueued_tokens = max_enqueued_tokens
        self.max_rounds = max_rounds
        self.mode = mode
        self.canary = canary
        self.answer_by = answer_by
        self.then = then
        self.deduplicate = deduplicate
        self.answers_uri = answers_uri
        self.answers_max_age = answers_max_age
        self.max_requests = max_requests
        self.max_cost = max_cost
        self.fail_on = fail_on
        self.is_dry_run = dry_run
        self.overwrite = overwrite
        self.delete_input_files = delete_input_files
        self.output_expires_after = output_expires_after
        self.input_expires_after = input_expires_after
        self.completion_window = completion_window
        self.metadata = metadata
        self.cancel_on_timeout = cancel_on_timeout
        self.reuse = reuse
        self._submitter: Submitter | None = None
        check_arguments(self)
        self.check_table_arguments()
        # The output of another task. It is not a template field, because then its rows would be rendered.
        if hasattr(requests, "iter_references"):
            for upstream, _ in requests.iter_references():
                self.set_upstream(upstream)

    @no_retry_of_bad_input()
    def execute(self, context: Context) -> Any:
        return self._start(context, search_since(context))

    @no_retry_of_bad_input()
    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        name: str = "",
        until: float | None = None,
        *,
        deployment_id: str = "",
    ) -> Any:
        """
        Continue when a wait has ended.

        :param name: the name of the job's directory.
        :param until: the Unix time at which the wait was told to end; None: at the batches' own deadlines.
        :param deployment_id: the deployment's id when the try began.
        """
        self._batch_ids = list(event["batches"])
        with self._runner(context, None, deployment_id) as runner:
            if not self._may_be_anothers:
                runner.submitter.known.update(self._batch_ids)
            if runner.resume(name):
                self._heard(runner, event, until)
                return self.with_table(context, self._run(context, runner))
        if name:
            self.log.warning(
                "The files of job %s are gone: reading the rows and finding the batches again", name
            )
        else:  # dag.test() passes on the event alone
            self.log.info("A test run does not say which job it waited for: reading the rows again")
        return self._start(context, began(context), deployment_id)

    def _start(self, context: Context, since: float | None, deployment_id: str = "") -> Any:
        from airflow_provider_openai_batches.operators.inference_rows import requests_of  # noqa: PLC0415 - not when a DAG is parsed

        with self._runner(context, since, deployment_id) as runner:
            refuse_what_instances_share(self, context)
            requests = requests_of(self, lambda: self._rows(context), runner.settings)
            if since is None or self.is_dry_run:
                self.check_table()
            if self.is_dry_run:
                return self.reported(context, runner.rehearse(requests))
            known = self.output_table is not None and runner.done_before()
            known = known or runner.prepare(requests)
            store_job_link(context, self.openai_conn_id)
            return self.with_table(context, known or self._run(context, runner))

    def _run(self, context: Context, runner: Runner) -> Any:
        """Do what can be done and wait, until nothing is left to wait for."""
        while (wait := runner.advance()) is not None:
            self.end_if_killed()
            self._may_be_anothers = not runner.records.are_own
            trigger = self._trigger(
                wait.batch_ids, wait.until, return_when=wait.return_when, progress=runner.progress()
            )
            if self.deferrable:
                known = {"name": runner.workspace.name, "until": wait.until}
                known["deployment_id"] = runner.submitter.task.deployment_id
                self.defer_in_time(context, trigger, "execute_complete", **known)
            self.hook.close()
            self._heard(runner, asyncio.run(first_event(trigger)), wait.until)
        return runner.finish()

    def _heard(self, runner: Runner, event: dict[str, Any], until: float | None) -> None:
        """Pass on the result of a wait, or fail if it brought an error or the time is up."""
        if event["status"] == "error":
            raise OpenAIBatchesError(event["message"])
        is_overdue = runner.heard(event["batches"])
        if not is_overdue and (event["status"] != "timeout" or until is not None):
            return
        said = f"{event['message']} The results so far are kept, and another try continues from there."
        if not self.cancel_on_timeout:
            raise BatchTimeout(f"{said} Nothing was cancelled: the batches run on and are paid for.")
        raise BatchTimeout(f"{said} Cancelled: {', '.join(runner.cancel()) or 'nothing'}.")

    def _runner(self, context: Context, since: float | None, deployment_id: str) -> Runner:
        from airflow_provider_openai_batches.operators.inference_job import runner_of  # noqa: PLC0415 - not when a DAG is parsed

        return runner_of(self, context, since, deployment_id)

    def submits_by(self, submitter: Submitter) -> None:
        """Note what :meth:`on_kill` has to stop."""
        self._submitter = submitter
        self.end_if_killed()

    def _rows(self, context: Context) -> Any:
        from airflow_provider_openai_batches.operators.inference_rows import rows_of  # noqa: PLC0415 - not when a DAG is parsed

        return rows_of(self, context)

    def cancel_running(self) -> None:
        if self._submitter:
            self._submitter.kill()
