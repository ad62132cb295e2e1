"""A batch as a row of text."""

from __future__ import annotations

import time

import pytest
from scene import made_by

from airflow_provider_openai_batches.api.models import Batch, BatchUsage
from airflow_provider_openai_batches.cli import tables


def test_a_row() -> None:
    """What a batch does not say is left empty, and a mapped task has its index."""
    made = Batch(
        id="b",
        status="in_progress",
        created_at=int(time.time()) - 720,
        usage=BatchUsage(total_tokens=7),
        metadata=made_by("d", "r", "t", 3),
    )
    row = tables.line(made)
    assert (row["age"], row["tokens"]) == ("12 min", "7")
    assert (row["dag_id"], row["run_id"], row["task_id"]) == ("d", "r", "t[3]")
    bare = tables.line(Batch(id="b"))
    assert [bare[name] for name in ("age", "tokens", "model", "dag_id", "run_id", "task_id")] == [""] * 6


@pytest.mark.parametrize("sign", ["\x1b", "\x07", "\u202e", "\u200b", "\r"])
def test_signs_that_a_terminal_obeys(sign: str) -> None:
    """Each control character is replaced by a visible one."""
    assert tables.clean(f"a{sign}b") == "a\N{REPLACEMENT CHARACTER}b"
