"""The provider's metadata: one literal that imports nothing, so that Airflow's discovery stays quick."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    return {"package-name": "airflow-provider-openai-batches", "name": "OpenAI Batches", "description": "x"}
