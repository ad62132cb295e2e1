"""Results of an inference task into a table of a database: by the task itself, or by one that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed
from airflow_provider_openai_batches.operators.base import WaitingOperator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_openai_batches.api.retry import Log
    from airflow_provider_openai_batches.sql.columns import Filling

_WRITTEN = ("succeeded",)
_DEFAULTS = {"output_columns": None, "output_mode": "upsert", "output_key": "custom_id"}


def write_to_table(
    results: Any, conn_id: str, table: str, wanted: Filling, *, create_table: bool, log: Log
) -> dict[str, Any]:
    """
    Write the rows of finished jobs to a table, all of them or none, and say what was done.

    :param results: as for :func:`all_results`.
    :return: ``table``, ``rows`` and ``loaded_before``.
    :raises InvalidInputError: if a job is not complete, or the table or a value does not fit.
    :raises LoadFailed: if the database refused or went away.
    """
    from airflow_provider_openai_batches.inference.summary import in_words  # noqa: PLC0415 - not when a DAG is parsed
    from airflow_provider_openai_batches.results import all_results  # noqa: PLC0415 - as above
    from airflow_provider_openai_batches.sql.load import load  # noqa: PLC0415 - as above

    jobs = all_results(results)
    for job in jobs:
        log.info("%s: %s", job, in_words(job.counts))
    loaded = load(jobs, conn_id, table, wanted, create_table=create_table)
    if loaded.before:
        log.info("The %s rows were in %s already; nothing was written", f"{loaded.rows:,}", table)
    else:
        log.info("%s rows are in %s (%s)", f"{loaded.rows:,}", table, wanted.mode)
    return {"table": table, "rows": loaded.rows, "loaded_before": loaded.before}


class TableOutput(WaitingOperator):
    """
    An operator that may write its results to a table; the inference operator's docstring has the arguments.

    Its other arguments are set before :meth:`check_table_arguments` is called.
    """

    output_kind: str
    output_schema: Any
    keep_columns: Iterable[str]
    reuse: bool

    def __init__(
        self,
        *,
        output_table: str | None = None,
        output_conn_id: str | None = None,
        output_columns: Mapping[str, str] | None = None,
        output_mode: Literal["upsert", "append", "replace"] = "upsert",
        output_key: str | Sequence[str] | None = "custom_id",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_table = output_table
        self.output_conn_id = output_conn_id
        self.output_columns = output_columns
        self.output_mode = output_mode
        self.output_key = output_key

    def check_table_arguments(self) -> None:
        """
        Refuse what is known to be wrong when the DAG is parsed.

        :raises InvalidInputError: naming the argument.
        """
        if (self.output_table is None) != (self.output_conn_id is None):
            raise InvalidInputError("output_table and output_conn_id belong together: give both.")
        if self.output_table is not None:
            self._filling()
        elif lost := [name for name, usual in _DEFAULTS.items() if getattr(self, name) != usual]:
            raise InvalidInputError(f"{' and '.join(lost)}: output_table is missing, so nothing is written.")

    def _filling(self) -> Filling:
        from airflow_provider_openai_batches.sql.columns import check_row_columns, filling  # noqa: PLC0415 - only with a table

        try:
            wanted = filling(statuses=_WRITTEN, **self._as_given())
        except InvalidInputError as error:
            said = str(error)  # the names that the arguments have in the operator that only loads
            prefix = "output_" if said.startswith(("mode", "columns")) else "output_table: "
            raise InvalidInputError(prefix + said) from error
        check_row_columns(wanted.columns, self._kept)
        return wanted

    def _as_given(self) -> dict[str, Any]:
        schema = None if self.output_kind == "body" else self.output_schema  # it says what is in the answer
        return {
            "columns": self.output_columns,
            "mode": self.output_mode,
            "key": self.output_key,
            "output_schema": schema,
        }

    @property
    def _kept(self) -> list[str]:
        return [self.keep_columns] if isinstance(self.keep_columns, str) else list(self.keep_columns)

    def key_columns(self) -> tuple[str, ...]:
        """Return the kept columns whose values must tell the rows apart; none if others do, or may."""
        if self.output_table is None or self.output_mode != "upsert":
            return ()
        wanted, kept = self._filling(), self._kept
        sources = [column.source for column in wanted.columns if column.name in wanted.key]
        return tuple(sources) if set(sources) <= set(kept) else ()

    def check_table(self) -> None:
        """
        Make sure that the table is going to take the results, before they cost anything.

        :raises InvalidInputError: if it is not.
        :raises LoadFailed: if the database cannot be reached.
        """
        if self.output_table is None:
            return
        from airflow_provider_openai_batches.sql.table import check_table  # noqa: PLC0415 - only with a table

        try:
            check_table(
                str(self.output_conn_id), self.output_table, row_columns=self._kept, **self._as_given()
            )
        except (InvalidInputError, LoadFailed) as error:
            raise type(error)(f"{error}. Nothing was sent") from error.__cause__

    def with_table(self, context: Context, summary: dict[str, Any]) -> dict[str, Any]:
        """
        Write the results of a job that is complete, and add to its summary what was done.

        :raises InvalidInputError: if the table does not take them.
        :raises LoadFailed: if the database refused or went away.
        """
        if self.output_table is None:
            return self.reported(context, summary)
        self.end_if_killed()
        try:
            table = write_to_table(
                summary,
                str(self.output_conn_id),
                self.output_table,
                self._filling(),
                create_table=True,
                log=self.log,
            )
        except LoadFailed as error:
            raise LoadFailed(f"{error}. {self._safe(summary, 'The next try')}") from error
        except InvalidInputError as error:
            said = f"{error}. {self._safe(summary, 'Mend the table or the task, and clear it: it')}"
            raise InvalidInputError(said) from error.__cause__
        return self.reported(context, {**summary, "table": table})

    def reported(self, context: Context, summary: dict[str, Any]) -> dict[str, Any]:
        """Return the summary of a task that is done, and put the main part of it into its asset events."""
        if self.outlets:
            from airflow_provider_openai_batches.inference.summary import extra_of  # noqa: PLC0415 - only with outlets
            from airflow_provider_openai_batches.observability import assets  # noqa: PLC0415 - as above

            assets.report(self, context, extra_of(summary), summary["output_uri"])
        return summary

    def _safe(self, summary: dict[str, Any], who: str) -> str:
        """Say what is safe when a load fails, and what the next try does."""
        complete = f"The results are complete in {summary['output_uri']}"
        if self.reuse:
            return f"{complete}. {who} loads them from there; nothing is sent or paid again"
        return (
            f"{complete}: load them with OpenAIBatchResultsToSqlOperator. {who} sends and pays for all rows "
            "again, because reuse is False"
        )
