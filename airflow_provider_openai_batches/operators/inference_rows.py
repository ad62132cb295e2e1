"""Where the rows of an inference task come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.inference.data.readers import read_rows
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.query import rows_of_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
    from airflow_provider_openai_batches.inference.data.requests import Request
    from airflow_provider_openai_batches.inference.settings import Settings


def requests_of(given: Any, rows: Callable[[], Any], settings: Settings) -> Iterator[Request]:
    """
    Yield the requests of an operator. No row is read before the first one is taken.

    :param given: has the operator's arguments as attributes.
    :param rows: gives the rows; it is called for the first one.
    :raises InvalidInputError: if a row is not valid; the message names it.
    """
    yield from requests_from(
        rows(),
        endpoint=given.endpoint,
        body=given.body,
        model=given.model,
        id_column=given.id_column,
        keep_columns=given.keep_columns,
        schema=settings.schema,
        has_source=settings.has_source,
        has_output_text=settings.has_output_text,
    )


def rows_of(given: Any, context: Any) -> Any:
    """
    Return the rows that an operator was given; those of files and queries are read one after the other.

    :param given: has the operator's arguments as attributes, and its hook.
    """
    if given.input_uri is not None:
        return _rows_of_files(given.input_uri, given.hook)
    if given.sql is not None:
        return rows_of_query(given.sql, str(given.sql_conn_id))
    return given.requests.resolve(context) if hasattr(given.requests, "iter_references") else given.requests


def _rows_of_files(given: Any, hook: OpenAIBatchesHook) -> Iterator[dict[str, Any]]:
    is_several = isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "open")
    uris = list(given) if is_several else [given]
    rows = read_rows(uris)
    hook.note_inputs(*uris)
    return rows
