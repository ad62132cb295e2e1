"""What ``benchmarks/makespan.py`` prints of a job, and the jobs of the other providers that it measures."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: SimpleNamespace(**runpy.run_path(str(BENCHMARKS / name)))


def cells(made: SimpleNamespace, name: str = "limit", **changes: Any) -> list[str]:
    case = next(case for case in made.CASES if case.name == name)
    given = {
        "case": case,
        "way": made.ways_of(case)[0],
        "ideal": 8.0,
        "hours": [10.0],
        "batches": 13,
        "rejected": 1,
        "answered_twice": 0,
        "answered": case.rows * case.jobs,
        "errors": [],
    }
    line: str = made.line_of(made.Outcome(**given | changes))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_job_is_divided_by_the_ideal(program: Any) -> None:
    made = program("makespan.py")
    shown = cells(made)
    assert shown == [
        "`limit`: this provider",
        "8.0 h",
        "10.0 h",
        "1.25",
        "13",
        "1",
        "0",
        "1,200 of 1,200",
    ]


def test_a_job_that_leaves_rows_without_an_answer_has_an_end_but_no_ratio(program: Any) -> None:
    shown = cells(program("makespan.py"), answered=1_199)
    assert shown[2:4] == ["10.0 h", "never"]
    assert shown[-1] == "1,199 of 1,200"


def test_a_job_that_does_not_end_has_neither(program: Any) -> None:
    shown = cells(program("makespan.py"), hours=[float("inf")], answered=0)
    assert shown[2:4] == ["not within 60 h", "never"]


def test_the_slowest_of_several_jobs_is_divided(program: Any) -> None:
    shown = cells(program("makespan.py"), "three", hours=[8.0, 16.0, 12.0])
    assert shown[2:4] == ["16.0 h (8.0, 12.0, 16.0)", "2.00"]


def test_each_way_of_a_case_has_a_title_of_its_own(program: Any) -> None:
    made = program("makespan.py")
    for case in made.CASES:
        titles = [way.title for way in made.ways_of(case)]
        assert len(set(titles)) == len(titles)
        assert [way.title for way in made.ways_of(case, only_ours=True)] == titles[:1] == ["this provider"]


@pytest.mark.parametrize("name", ["a", "a-longer-name"])
def test_requests_of_llm_batch_operator_have_as_many_tokens_as_ours(program: Any, name: str) -> None:
    made = program("makespan_beside.py")
    task = made.Task(name=name, base_url="", folder="", speed=1.0, rows=2)
    for body in made.bodies(task):
        message = {"role": "user", "content": made.prompt_of(body)}
        sent = {"model": made.MODEL, "messages": [message], "max_completion_tokens": made.MAX_TOKENS}
        assert len(json.dumps(sent)) == made.TOKENS * 4


@pytest.mark.parametrize(
    ("failing", "tries", "ended"), [(0, 1, (5, "")), (2, 3, (5, "")), (3, 3, (0, "ValueError: no 3"))]
)
def test_a_mapped_task_runs_as_often_as_its_retries_allow(
    program: Any, failing: int, tries: int, ended: tuple[int, str]
) -> None:
    made = program("makespan_beside.py")
    ran: list[int] = []

    def one_try() -> int:
        ran.append(len(ran) + 1)
        if len(ran) <= failing:
            raise ValueError(f"no {len(ran)}")
        return 5

    made.asked.__globals__["official"] = lambda _part: one_try
    options = {"retries": 2, "retry_delay": 0.0, "at_once": None}
    (part,) = made.parts(made.Task(name="a", base_url="", folder="", speed=1.0, rows=1, options=options))
    assert made.asked("official", part) == ended
    assert len(ran) == tries
