"""The results of an inference task into a Delta table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_openai_batches.observability import assets
from airflow_provider_openai_batches.operators.base import no_retry_of_bad_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context


class OpenAIBatchResultsToDeltaOperator(BaseOperator):
    """
    Write the results of finished inference tasks to a Delta table, all rows in one commit, or none.

    The table gets the columns of the results, which must be Parquet; a missing table is made. A try after one
    that died finds what that one did, and leaves the table as if it had been written once.

    :param results: what an inference task returned, its ``output_uri``, or several of either, such as the
        output of mapped tasks. (templated)
    :param table_uri: a path, or a URI that ``deltalake`` knows, such as ``s3://bucket/table``. (templated)
    :param mode: ``"append"`` adds the rows of each job once; ``"overwrite"`` replaces all rows.
    :param statuses: which rows are written, by their ``status``.
    :param storage_options: the credentials and settings of the store, as ``deltalake`` takes them; or a
        function that returns them, which is called when the task runs, so that no key is in the DAG. Default:
        those of the environment.
    :return: a dict of ``table_uri``, ``rows`` (how many rows of these results are in it) and
        ``loaded_before``: whether an earlier try had added them.
    :raises InvalidInputError: if the results or the table cannot be used. Nothing was written, and no retry
        follows.
    :raises LoadFailed: if the table could not be reached, or others changed it. The next try writes all rows.
    """

    template_fields: Sequence[str] = ("results", "table_uri")
    template_fields_renderers: ClassVar[dict[str, str]] = {"results": "json"}
    ui_color = "#e8f5f0"

    def __init__(
        self,
        *,
        results: Any,
        table_uri: str,
        mode: Literal["append", "overwrite"] = "append",
        statuses: Iterable[str] = ("succeeded",),
        storage_options: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results = results
        self.table_uri = table_uri
        self.mode = mode
        self.statuses = statuses
        self.storage_options = storage_options
        self._wanted()

    def _wanted(self) -> frozenset[str]:
        from airflow_provider_openai_batches.lakes.delta import check_mode  # noqa: PLC0415 - as below
        from airflow_provider_openai_batches.results import wanted_statuses  # noqa: PLC0415 - as below

        check_mode(self.mode)
        return wanted_statuses(self.statuses)

    @no_retry_of_bad_input()
    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_openai_batches.inference.summary import in_words  # noqa: PLC0415 - not when a DAG is parsed
        from airflow_provider_openai_batches.lakes import delta  # noqa: PLC0415 - as above
        from airflow_provider_openai_batches.results import all_results  # noqa: PLC0415 - as above

        results = all_results(self.results)
        for job in results:
            self.log.info("%s: %s", job, in_words(job.counts))
        done = delta.write(
            results,
            self.table_uri,
            mode=self.mode,
            statuses=self._wanted(),
            storage_options=given() if callable(given := self.storage_options) else given,
        )
        said = "were there already; nothing was written" if done.before else f"are there ({self.mode})"
        self.log.info("%s: the %s rows %s", self.table_uri, f"{done.rows:,}", said)
        summary = {"table_uri": self.table_uri, "rows": done.rows, "loaded_before": done.before}
        assets.report(self, context, summary, self.table_uri)
        return summary
