"""What a canary of a few rows does to the batches of a later try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferencekit import MortalOperator, again, job, killed, rows

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


def test_a_canary_does_not_make_the_follow_ups_of_a_later_try_small(server: DevServer, out: Path) -> None:
    """Rows that were asked live have no batch either, but were never too large for one."""
    given = rows(41, dict.fromkeys(range(1, 31), "fail:500*1"))
    operator = job(out, MortalOperator, requests=given, canary=1, max_enqueued_tokens=1_000_000)
    killed(operator, "retrieve_batch", "before", 1)
    assert again(operator)["counts"]["succeeded"] == 41
    assert len(server.batches()) == 2, len(server.batches())
