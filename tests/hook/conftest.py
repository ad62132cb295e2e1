"""A hook on a dev server of its own, whose waits are a fiftieth of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import short_sleep

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.fixture
def hook(server: DevServer) -> Iterator[OpenAIBatchesHook]:
    hook = OpenAIBatchesHook(sleep=short_sleep)
    yield hook
    hook.close()
