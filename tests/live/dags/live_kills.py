"""Batches that are waited for in the triggerer until somebody intervenes, or their run is overdue."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_openai_batches.operators.openai_batches import OpenAICreateBatchOperator

INPUT = f"{os.environ['LIVE_WORK']}/kills.jsonl"
COMMON: dict[str, Any] = {"task_id": "batch", "endpoint": "/v1/chat/completions", "poll_interval": 2}

with DAG("live_kills", schedule=None):
    OpenAICreateBatchOperator(**COMMON, input_file=INPUT)

with DAG("live_overdue", schedule=None, dagrun_timeout=timedelta(seconds=60)):
    OpenAICreateBatchOperator.partial(**COMMON).expand(input_file=[INPUT] * 3)
