"""The ideal of ``benchmarks/makespan.py``: no schedule is quicker, and without a limit one is as quick."""

from __future__ import annotations

import json
import runpy
from heapq import heappop, heappush
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

MODULE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "makespan_cases.py"))
CASES, TOKENS, bodies = MODULE["CASES"], MODULE["TOKENS"], MODULE["bodies"]


def greedy(case: Any, runs: dict[int, int]) -> float:
    """
    The hours of a schedule that submits what fits, and asks again at once.

    :param runs: how often each row must be asked.
    """
    each, now = case.requests_per_batch, 0.0
    limit = case.limit_in_tokens or 10**9
    hours = dict(enumerate(case.hours))
    line = [
        (hours.get(n), list(range(n * each, n * each + each)), 1) for n in range(case.batches)
    ] * case.jobs
    running: list[tuple[float, int, int, list[int]]] = []
    free, number = limit, 0
    while line or running:
        while line and len(line[0][1]) * TOKENS <= free:
            takes, rows, run = line.pop(0)
            free -= len(rows) * TOKENS
            heappush(
                running, (now + (case.again if takes is None else takes), number := number + 1, run, rows)
            )
        now, _, run, rows = heappop(running)
        free += len(rows) * TOKENS
        if left := [row for row in rows if runs[row] > run]:
            line.append((None, left, run + 1))
    return now


@st.composite
def cases(draw: st.DrawFn, *, limited: bool) -> tuple[Any, dict[int, int]]:
    batches, each = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    hours = draw(st.lists(st.none() | st.sampled_from([1.0, 2.0, 5.0, 12.0]), max_size=batches))
    limit = draw(st.sampled_from([1.0, 1.5, 2.0, 3.2])) if limited else None
    case = MODULE["Case"](
        "any",
        rows=batches * each,
        batches=batches,
        hours=tuple(hours),
        again=draw(st.sampled_from([1.0, 2.0, 3.0])),
        limit=limit,
        jobs=draw(st.integers(1, 3)),
    )
    return case, {row: draw(st.integers(1, 4)) for row in range(case.rows)}


@given(cases(limited=True))
def test_no_schedule_is_quicker(drawn: tuple[Any, dict[int, int]]) -> None:
    """Not under a limit either."""
    case, runs = drawn
    assert case.ideal(lambda _, row: runs[row], 1.0) <= greedy(case, runs)


@given(cases(limited=False))
def test_without_a_limit_it_can_be_reached(drawn: tuple[Any, dict[int, int]]) -> None:
    """By asking again at once."""
    case, runs = drawn
    assert case.ideal(lambda _, row: runs[row], 1.0) == greedy(case, runs)


@pytest.mark.parametrize(
    ("name", "hours"), [("tail", 12.0), ("limit", 8.0), ("three", 20.0), ("oversize", 8.0)]
)
def test_the_cases(name: str, hours: float) -> None:
    """Their ideals, if every row is answered at once."""
    (case,) = (case for case in CASES if case.name == name)
    assert case.ideal(lambda *_: 1, 1.0) == hours


@pytest.mark.parametrize("rows", [1, 1_000])
def test_requests_have_the_tokens_that_are_counted(rows: int) -> None:
    """Four bytes of a body are a token, and no two jobs ask the same."""
    made = [list(bodies(SimpleNamespace(name=name, rows=rows))) for name in ("three-0", "three-1")]
    sizes = {len(json.dumps(body, separators=(",", ":"))) for job in made for body in job}
    assert sizes == {4 * TOKENS}
    assert len({json.dumps(body) for job in made for body in job}) == 2 * rows
