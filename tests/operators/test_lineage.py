"""What operators read and write is seen by Airflow's hook lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import ENDPOINT, request_lines, run_task, task_context

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Airflow's own collector: without a reader plugin the hook would get one that collects nothing."""
    from airflow.providers.common.compat.sdk import HookLineageCollector

    collector = HookLineageCollector()  # type: ignore[no-untyped-call]  # Airflow has no types here
    monkeypatch.setattr(OpenAIBatchesHook, "_lineage", collector)
    return collector


def test_input_and_output_are_reported(collector: Any, server: DevServer, tmp_path: Path) -> None:
    """The input file as an input, the results as outputs, as URIs."""
    (tmp_path / "in.jsonl").write_bytes(request_lines())
    create = OpenAICreateBatchOperator(
        task_id="c", endpoint=ENDPOINT, input_file=str(tmp_path / "in.jsonl"), poll_interval=0.1
    )
    batch = run_task(create)
    download = OpenAIDownloadBatchResultsOperator(
        task_id="d", batch_id=batch["id"], output_uri=f"file://{tmp_path}/out"
    )
    download.execute(task_context(download))
    assets = collector.collected_assets
    assert [found.asset.uri for found in assets.inputs] == [f"file://{tmp_path}/in.jsonl"]
    assert [found.asset.uri for found in assets.outputs] == [
        f"file://{tmp_path}/out/{batch['id']}-output.jsonl"
    ]
