"""One operator for each operation of the Batch API. They only order the steps and defer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_openai_batches import links, storage
from airflow_provider_openai_batches.api import validation
from airflow_provider_openai_batches.api.models import plain
from airflow_provider_openai_batches.api.validation import result_file_name
from airflow_provider_openai_batches.exceptions import (
    BatchError,
    BatchTimeout,
    InvalidInputError,
    OpenAIBatchesError,
)
from airflow_provider_openai_batches.idempotency.ledger import Ledger
from airflow_provider_openai_batches.idempotency.submit import BatchSpec, Submitter
from airflow_provider_openai_batches.observability import assets
from airflow_provider_openai_batches.operators.base import (
    BatchOperator,
    WaitingOperator,
    began,
    has_answers,
    raise_unless_good,
    search_since,
    task_identity,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_openai_batches.api.models import Batch

# What to do with a batch that ended early with some of its answers.
WAY_OUT = (
    "\nNo try sends the file again, because these answers would be paid for twice. Download them with "
    "OpenAIDownloadBatchResultsOperator, and submit a file with the other lines; or set reuse=False to send "
    "all of it again. OpenAIBatchInferenceOperator asks again only for what has no answer, by itself."
)


class OpenAICreateBatchOperator(WaitingOperator):
    """
    Submit a batch and wait for it, in the triggerer unless told otherwise.

    A later try of the task uses the batch that an earlier try left, running or completed, so that nothing is
    paid for twice. https://developers.openai.com/api/reference/resources/batches/methods/create

    :param endpoint: for example ``/v1/responses`` or ``/v1/chat/completions``. (templated)
    :param input_file_id: the id of an uploaded file. Give this or ``input_file``. (templated)
    :param input_file: a JSONL file, as a path or any URI of Airflow's object storage; it is checked line by
        line and uploaded. (templated)
    :param completion_window: ``24h`` at OpenAI. (templated)
    :param metadata: up to 11 pairs of strings; the provider adds 5 to find the batch again. (templated)
    :param output_expires_after: seconds (3,600 to 2,592,000) after which the service deletes the results.
    :param wait_for_completion: if False, the task ends when the batch is created.
    :param openai_conn_id: an Airflow connection; default: ``openai_batches_default``. (templated)
    :param deferrable: wait in the triggerer (the default); if False, wait in the worker and hold its slot.
    :param poll_interval: seconds between two polls of the batch; default: 60.
    :param batch_timeout: seconds to wait at most; default: an hour past the batch's ``expires_at``.
    :param cancel_on_kill: cancel the batch when the task is stopped; default: True.
    :param cancel_on_timeout: cancel the batch when the wait times out.
    :param reuse: use the batch of an earlier try; if False, every try submits a new one.
    :return: the batch as a dict; its id is in the XCom ``batch_id`` from the moment it exists.
    :raises InvalidInputError: if an argument or the file is not valid, before anything is sent.
    :raises BatchFailed: if the service rejects the file, or every request failed.
    :raises BatchExpired: if the window ended before there was any answer.
    :raises BatchCancelled: if somebody cancelled it before there was any answer.
    :raises AirflowFailException: if it ended early with answers. They are paid for, so no try sends it again.
    :raises BatchTimeout: if the batch still runs at the end of ``batch_timeout``.
    """

    template_fields: Sequence[str] = (
        "endpoint",
        "input_file_id",
        "input_file",
        "completion_window",
        "metadata",
        "openai_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"metadata": "json"}
    operator_extra_links = (links.OpenAIBatchLink(), links.OpenAIBatchJobLink())

    def __init__(
        self,
        *,
        endpoint: str,
        input_file_id: str | None = None,
        input_file: str | None = None,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after: int | Mapping[str, Any] | None = None,
        wait_for_completion: bool = True,
        cancel_on_timeout: bool = True,
        reuse: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint = endpoint
        self.input_file_id = input_file_id
        self.input_file = input_file
        self.completion_window = completion_window
        self.metadata = metadata
        self.output_expires_after = output_expires_after
        self.wait_for_completion = wait_for_completion
        self.cancel_on_timeout = cancel_on_timeout
        self.reuse = reuse
        self._submitter: Submitter | None = None
        if output_expires_after is not None:
            validation.check_expiry(output_expires_after, "output_expires_after")
        self._check_source()

    def _check_source(self) -> None:
        if (self.input_file_id is None) == (self.input_file is None):
            given = "both" if self.input_file is not None else "neither"
            raise InvalidInputError(
                "Give either input_file_id (a file at the service) or input_file (a JSONL file): "
                f"this has {given}."
            )

    def execute(self, context: Context) -> Any:
        return self._start(context, search_since(context))

    def execute_replacement(self, context: Context, event: dict[str, Any]) -> Any:
        """Continue when a batch that was being cancelled is over: without answers it is replaced."""
        if event["status"] != "finished":
            return self.execute_complete(context, event)
        return self._start(context, began(context))

    def _start(self, context: Context, since: float | None) -> Any:
        self._check_source()
        self.ready_to_be_killed(context)
        task = task_identity(context)
        ledger = None if since is None else Ledger(self.hook, task, since)
        self._submitter = Submitter(self.hook, task, ledger, self.log, reuse=self.reuse)
        self.end_if_killed()
        spec = BatchSpec(
            endpoint=self.endpoint,
            completion_window=self.completion_window,
            metadata=self.metadata or {},
            output_expires_after=self.output_expires_after,
        )
        spec.check()
        batch = self._submit(self._submitter, spec, self._check_input())
        self._batch_ids, self._may_be_anothers = [batch.id], not self._submitter.is_own(batch.id)
        context["ti"].xcom_push("batch_id", batch.id)
        links.store_batch_link(context, self.hook.config, batch.id)
        links.store_job_link(context, self.openai_conn_id)
        if batch.is_over:
            batch = self.hook.settled(batch)
            self.say_costs([batch])
            return self.finish([batch])
        if batch.is_being_cancelled:
            return self.wait_for(context, [batch.id], "execute_replacement")
        if not self.wait_for_completion:
            self.end_if_killed()
            return batch.to_dict()
        return self.wait_for(context, [batch.id])

    def _check_input(self) -> str:
        """Refuse bad input before anything is sent, and return a digest of it."""
        if self.input_file is None:
            return f"{self.endpoint} {validation.check_id(self.input_file_id, 'input_file_id')}"
        with storage.opened(self.input_file) as file:
            summary = validation.check_input(file, self.endpoint, str(self.input_file))
        self.hook.note_inputs(self.input_file)
        self.log.info("%s: %d requests, %d bytes", self.input_file, summary.requests, summary.bytes)
        return f"{self.endpoint} {summary.sha256}"

    def _submit(self, submitter: Submitter, spec: BatchSpec, digest: str) -> Batch:
        key = submitter.key(digest)
        submitter.cancel_outdated({key})
        batch = submitter.find(key)
        if batch and (not batch.may_have_answers or has_answers(self.hook, batch)):
            return batch
        if self.input_file is None:
            return submitter.submit_file_id(spec, key, str(self.input_file_id))
        return submitter.submit_file(spec, key, self.input_file)

    def finish(self, batches: list[Batch]) -> dict[str, Any]:
        batch = batches[0]
        try:
            raise_unless_good(self.hook, batch)
        except BatchError as error:
            if self.reuse and has_answers(self.hook, batch):
                raise AirflowFailException(f"{error}{WAY_OUT}") from error
            raise
        self.log.info(
            "Batch %s completed: %d of %d requests succeeded, %d failed",
            batch.id,
            batch.counts.completed,
            batch.counts.total,
            batch.counts.failed,
        )
        return batch.to_dict()

    def on_timeout(self, event: dict[str, Any]) -> None:
        if self._may_be_anothers or not self.cancel_on_timeout:
            raise BatchTimeout(f"{event['message']} Nothing was cancelled: it runs on, and is paid for.")
        ends = [f"{batch_id} is {self._cancelled(batch_id)}" for batch_id in event["batches"]]
        raise BatchTimeout(f"{event['message']} Cancelled: {', '.join(ends)}.")

    def _cancelled(self, batch_id: str) -> str:
        try:
            return self.hook.cancel_batch(batch_id).status
        except OpenAIBatchesError as error:
            return f"not cancelled and may run on ({error})"

    def cancel_running(self) -> None:
        if self._submitter:
            self._submitter.kill()
        else:
            super().cancel_running()


class OpenAIRetrieveBatchOperator(BatchOperator):
    """
    Retrieve a batch. https://developers.openai.com/api/reference/resources/batches/methods/retrieve

    :param batch_id: the batch's id. (templated)
    :param openai_conn_id: an Airflow connection; default: ``openai_batches_default``. (templated)
    :return: the batch as a dict.
    """

    template_fields: Sequence[str] = ("batch_id", "openai_conn_id")

    def __init__(self, *, batch_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id

    def execute(self, context: Context) -> dict[str, Any]:
        batch = self.hook.retrieve_batch(self.batch_id)
        self.log.info("Batch %s is %s", batch.id, batch.status)
        return batch.to_dict()


class OpenAIListBatchesOperator(BatchOperator):
    """
    List one page of batches, newest first.
    https://developers.openai.com/api/reference/resources/batches/methods/list

    :param after: the id of the last batch of the page before. (templated)
    :param limit: 1 to 100.
    :param openai_conn_id: an Airflow connection; default: ``openai_batches_default``. (templated)
    :return: ``{"data": [...], "has_more": …, "first_id": …, "last_id": …}``.
    """

    template_fields: Sequence[str] = ("after", "openai_conn_id")

    def __init__(self, *, after: str | None = None, limit: int = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.after = after
        self.limit = validation.check_limit(limit)

    def execute(self, context: Context) -> dict[str, Any]:
        page = self.hook.list_batches(self.after, self.limit)
        self.log.info("%d batches%s", len(page.data), ", and there are more" if page.has_more else "")
        return plain(page)


class OpenAICancelBatchOperator(WaitingOperator):
    """
    Cancel a batch; it is not an error if the batch has already ended.
    https://developers.openai.com/api/reference/resources/batches/methods/cancel

    :param batch_id: the batch's id. (templated)
    :param wait_for_completion: wait until ``cancelling`` (up to ten minutes) has become ``cancelled``.
    :param cancel_on_kill: cancel the batch even when this task is stopped before it has done so.
    :param deferrable: this, ``poll_interval`` and ``batch_timeout`` are as in ``OpenAICreateBatchOperator``.
    :param openai_conn_id: an Airflow connection; default: ``openai_batches_default``. (templated)
    :return: the batch as a dict.
    """

    template_fields: Sequence[str] = ("batch_id", "openai_conn_id")
    operator_extra_links = (links.OpenAIBatchJobLink(),)

    def __init__(
        self,
        *,
        batch_id: str,
        wait_for_completion: bool = False,
        cancel_on_kill: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, **kwargs)
        self.batch_id = batch_id
        self.wait_for_completion = wait_for_completion

    def execute(self, context: Context) -> Any:
        self.ready_to_be_killed(context)
        self._batch_ids = [self.batch_id]
        batch = self.hook.cancel_batch(self.batch_id)
        links.store_link_to_origin(context, self.openai_conn_id, batch.id, batch)
        self.log.info("Batch %s is %s", batch.id, batch.status)
        if batch.is_over or not self.wait_for_completion:
            return batch.to_dict()
        return self.wait_for(context, [batch.id])

    def finish(self, batches: list[Batch]) -> dict[str, Any]:
        return batches[0].to_dict()


class OpenAIDownloadBatchResultsOperator(BatchOperator):
    """
    Download what a batch has produced: its output file and its error file.

    The partial results of an expired or cancelled batch are downloaded too: they are paid for.

    :param batch_id: the batch's id. (templated)
    :param output_uri: a directory, as a path or any URI of Airflow's object storage; the files in it are
        named ``<batch id>-output.jsonl`` and ``<batch id>-errors.jsonl``. (templated)
    :param openai_conn_id: an Airflow connection; default: ``openai_batches_default``. (templated)
    :return: id, status, counts, and the URI and size in bytes of each file.
    """

    template_fields: Sequence[str] = ("batch_id", "output_uri", "openai_conn_id")

    def __init__(self, *, batch_id: str, output_uri: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.output_uri = output_uri

    def execute(self, context: Context) -> dict[str, Any]:
        batch = self.hook.settled(self.hook.retrieve_batch(self.batch_id))
        if batch.status == "failed":
            raise_unless_good(self.hook, batch)
        if not batch.is_over:
            raise InvalidInputError(
                f"Batch {batch.id} is {batch.status}: it has no results yet. "
                "Put an OpenAIBatchSensor before this task."
            )
        counts = plain(batch.counts)
        result: dict[str, Any] = {"batch_id": batch.id, "status": batch.status, "request_counts": counts}
        for name, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
            result[name] = self._download(file_id, result_file_name(batch.id, name)) if file_id else None
        assets.report(self, context, result, self.output_uri)
        return result

    def _download(self, file_id: str, name: str) -> dict[str, Any]:
        target = storage.as_path(self.output_uri) / name
        uri = storage.as_given(f"{str(self.output_uri).rstrip('/')}/{name}", target)
        size = self.hook.download_file(file_id, target)
        self.hook.note_outputs(uri)
        self.log.info("%s: %d bytes", target, size)
        return {"uri": uri, "bytes": size}
