"""The results of an inference task into a table of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_openai_batches.observability import assets
from airflow_provider_openai_batches.operators.base import no_retry_of_bad_input
from airflow_provider_openai_batches.operators.inference_table import write_to_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context


class OpenAIBatchResultsToSqlOperator(BaseOperator):
    """
    Write the results of finished inference tasks to a table, all rows or none, and once whatever dies.

    All rows are written in one transaction: PostgreSQL takes them by COPY, other databases in chunks. A try
    after one that died finds what that one did, and leaves the table as if it had been loaded once.

    :param results: what an inference task returned, its ``output_uri``, or several of either, such as the
        output of mapped tasks. (templated)
    :param conn_id: an Airflow connection to a database: PostgreSQL, MySQL, MariaDB, SQLite, DuckDB, or
        another one with a DB-API hook, where the table must exist. (templated)
    :param table: ``table`` or ``schema.table``. (templated)
    :param columns: for each column of the table, where its values are in a row of results: ``"output"``,
        ``"custom_id"``, a kept column, or a path such as ``"output.city"`` or ``"usage.total_tokens"``;
        objects and lists become JSON. Default: a column for each field of ``output_schema``; without it,
        ``output``.
    :param mode: ``"upsert"`` replaces rows of the same key and adds the others, ``"append"`` adds the rows of
        each job once (a table ``openai_batches_loads`` notes which), ``"replace"`` empties the table first.
    :param key: the column of the table, or columns, that tell rows apart. One that ``columns`` does not name
        is filled from the results' column of the same name. For an upsert, the table needs a primary key or a
        unique constraint on it.
    :param statuses: which rows are written, by their ``status``.
    :param output_schema: the schema of the inference task, for the types of a table that is made, and to
        check ``columns``. Without it, the types are those of the values.
    :param create_table: make the table if it is missing.
    :return: a dict of ``table``, ``rows`` (how many rows of these results are in it) and ``loaded_before``:
        whether an earlier try had written them.
    :raises InvalidInputError: if the results are not complete, the table does not fit, or a value does not;
        the message names row and column. Nothing was written, and no retry follows.
    :raises LoadFailed: if the database refused or went away. Nothing was written; the next try writes all.
    """

    template_fields: Sequence[str] = ("results", "conn_id", "table")
    template_fields_renderers: ClassVar[dict[str, str]] = {"results": "json"}
    shallow_copy_attrs: Sequence[str] = ("output_schema",)
    ui_color = "#e8f5f0"

    def __init__(
        self,
        *,
        results: Any,
        conn_id: str,
        table: str,
        columns: Mapping[str, str] | None = None,
        mode: Literal["upsert", "append", "replace"] = "upsert",
        key: str | Sequence[str] | None = "custom_id",
        statuses: Iterable[str] = ("succeeded",),
        output_schema: Any = None,
        create_table: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results = results
        self.conn_id = conn_id
        self.table = table
        self.columns = columns
        self.mode = mode
        self.key = key
        self.statuses = statuses
        self.output_schema = output_schema
        self.create_table = create_table
        self._filling()

    def _filling(self) -> Any:
        from airflow_provider_openai_batches.sql.columns import filling  # noqa: PLC0415 - it takes a while to import

        return filling(
            self.columns,
            key=self.key,
            mode=self.mode,
            statuses=self.statuses,
            output_schema=self.output_schema,
        )

    @no_retry_of_bad_input()
    def execute(self, context: Context) -> dict[str, Any]:
        done = write_to_table(
            self.results,
            self.conn_id,
            self.table,
            self._filling(),
            create_table=self.create_table,
            log=self.log,
        )
        assets.report(self, context, done)
        return done
