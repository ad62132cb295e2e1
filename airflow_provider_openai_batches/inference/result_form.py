"""What the results of a job are to look like: arguments that do not go together are refused first."""

from __future__ import annotations

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.exceptions import InvalidInputError


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
