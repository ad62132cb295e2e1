"""What the results of a job are to look like: arguments that do not go together are refused first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_typed(output: str, output_format: str, endpoint: str, *, has_schema: bool) -> None:
    """
    Refuse ``typed_output`` where no output has a type.

    :param endpoint: a template is let through.
    :raises InvalidInputError: naming what it needs.
    """
    if output_format != "parquet":
        raise InvalidInputError(
            f"typed_output=True needs output_format='parquet', not {output_format!r}: JSON has its types."
        )
    if output != "text":
        raise InvalidInputError(
            f"typed_output=True needs output='text': output={output!r} keeps what came as it is."
        )
    if not has_schema and "{" not in endpoint and not spec_of(endpoint).gives_vectors:
        raise InvalidInputError(
            "typed_output=True needs an output_schema, or embeddings: other outputs are text."
        )


def check_partition(column: str, keep_columns: Iterable[str]) -> None:
    """
    Refuse ``partition_by`` where the results have no such column.

    :raises InvalidInputError: naming the columns that are kept.
    """
    kept = [keep_columns] if isinstance(keep_columns, str) else list(keep_columns)
    if not column or column not in kept:
        raise InvalidInputError(
            f"partition_by={column!r} needs this column in keep_columns, which has "
            f"{', '.join(map(repr, kept)) or 'none'}."
        )
