"""Where the rows of an inference task come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook


def rows_of(given: Any, context: Any) -> Any:
    """
    Return the rows that an operator was given; those of files and queries are read one after the other.

    :param given: has the operator's arguments as attributes, and its hook.
    """
    if given.input_uri is not None:
        return _rows_of_files(given.input_uri, given.hook)
    if given.sql is not None:
        from airflow_provider_openai_batches.inference.query import rows_of_query  # noqa: PLC0415 - rarely needed

        return rows_of_query(given.sql, str(given.sql_conn_id))
    return given.requests.resolve(context) if hasattr(given.requests, "iter_references") else given.requests


def _rows_of_files(given: Any, hook: OpenAIBatchesHook) -> Iterator[dict[str, Any]]:
    from airflow_provider_openai_batches.inference.data.readers import read_rows  # noqa: PLC0415 - not all need files

    is_several = isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "open")
    uris = list(given) if is_several else [given]
    rows = read_rows(uris)
    hook.note_inputs(*uris)
    return rows
