"""What a task read and wrote, told to Airflow's hook lineage: OpenLineage and assets see it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook


def read(hook: OpenAIBatchesHook, *locations: Any) -> None:
    """These were read: paths, URIs, ObjectStoragePaths."""
    for location in locations:
        _collector().add_input_asset(context=hook, uri=_uri(location))


def wrote(hook: OpenAIBatchesHook, *locations: Any) -> None:
    """These were written."""
    for location in locations:
        _collector().add_output_asset(context=hook, uri=_uri(location))


def _collector() -> Any:
    from airflow.providers.common.compat.sdk import get_hook_lineage_collector  # noqa: PLC0415 - at run time only

    return get_hook_lineage_collector()


def _uri(location: Any) -> str:
    text = str(location)
    return text if "://" in text else Path(text).absolute().as_uri()
