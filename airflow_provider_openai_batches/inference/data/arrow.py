"""pyarrow, which only jobs that read or write Parquet need."""

from __future__ import annotations

import importlib
from typing import Any

from airflow_provider_openai_batches.exceptions import InvalidInputError


def pyarrow(module: str) -> Any:
    """
    Import a module of pyarrow.

    :raises InvalidInputError: if pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInputError(
            "Parquet needs pyarrow: install airflow-provider-openai-batches[parquet]"
        ) from error
