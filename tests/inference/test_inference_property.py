"""For any rows, limits, faults, rounds and deaths: one result for each row, in order, and none paid twice."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inferencekit import Crash, MortalHook, MortalOperator, job, results, rows
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

# What the dev server does with a request, and how many rounds it takes until it succeeds (None: never).
MARKERS = {"": 0, "fail:429*1": 1, "fail:500*2": 2, "fail:408*3": 3, "fail:400": None, "refuse": None}
OPERATIONS = ("upload_file", "create_batch", "retrieve_batch", "download_file")


class Death(NamedTuple):
    operation: str
    moment: str
    nth: int
    with_its_disk: bool


DEATHS = st.builds(
    Death,
    st.sampled_from(OPERATIONS),
    st.sampled_from(["before", "after"]),
    st.integers(1, 6),
    st.booleans(),
)
FAULTS = st.fixed_dictionaries(
    {
        "operation": st.sampled_from([*OPERATIONS, "list_batches"]),
        "action": st.sampled_from(["drop_before", "drop_after", "half_body"]),
        "skip": st.integers(0, 4),
    }
)


def expected(marker: str, max_rounds: int) -> str:
    needed = MARKERS[marker]
    return "succeeded" if needed is not None and needed <= max_rounds else "failed"


def live(operator: Any, deaths: list[Death], out: Path) -> None:
    """As many tries as it takes; each death ends one."""
    for number in range(1, len(deaths) + 2):
        death = deaths[number - 1] if number <= len(deaths) else Death("", "", 0, with_its_disk=False)
        MortalHook.doom = death[:3]
        renewed = fresh(operator)
        try:
            run_task(renewed, task_context(renewed, try_number=number))
        except Crash:
            if death.with_its_disk:
                shutil.rmtree(out)
        except BatchFailed:
            return
        else:
            return


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    markers=st.lists(st.sampled_from(list(MARKERS)), min_size=1, max_size=12),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3)),
    deaths=st.lists(DEATHS, max_size=3),
    faults=st.lists(FAULTS, max_size=2),
)
def test_each_row_has_one_result_and_is_paid_once(
    server: DevServer,
    markers: list[str],
    limits: tuple[int, int, int],
    deaths: list[Death],
    faults: list[dict[str, Any]],
) -> None:  # fmt: skip
    """The property that the whole operator stands for."""
    server.reset()
    server.settings(batch_seconds=0.02)
    server.faults([{**fault, "times": 1} for fault in faults])
    per_batch, at_once, rounds = limits
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        operator = job(
            out,
            MortalOperator,
            requests=rows(len(markers), dict(enumerate(markers))),
            max_requests_per_batch=per_batch,
            max_active_batches=at_once,
            max_rounds=rounds,
            poll_interval=0.02,
        )
        live(operator, deaths, out)
        found = results(out)
        assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(len(markers))]
        assert [row["status"] for row in found] == [expected(marker, rounds) for marker in markers]
    stats = server.stats()
    assert stats["paid_more_than_once"] == 0
    assert stats["batches"]["running"] == 0
