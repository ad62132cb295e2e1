"""For any token limit, estimates, failures, lengths and deaths: each row once, and few rejections."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inferencekit import Crash, MortalHook, MortalOperator, job, results
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed
from airflow_provider_openai_batches.inference.data import shards

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

MARKERS = ["", "", "fail:429*1", "fail:500*2"]
OPERATIONS = ("upload_file", "create_batch", "retrieve_batch", "download_file")
LIMIT = 200


class Row(NamedTuple):
    model: str
    text: int
    marker: str


class Death(NamedTuple):
    operation: str
    moment: str
    nth: int
    loses: str


class Setup(NamedTuple):
    """
    ``told`` is the limit that the user gives, and ``per_token`` how many bytes are taken for a token.

    ``per_batch`` and ``lengths`` are those of the batches.
    """

    told: int | None
    per_token: int
    per_batch: int
    lengths: list[float]


ROWS = st.builds(Row, st.sampled_from(["a", "b"]), st.integers(0, 190), st.sampled_from(MARKERS))
DEATHS = st.builds(
    Death,
    st.sampled_from(OPERATIONS),
    st.sampled_from(["before", "after"]),
    st.integers(1, 8),
    st.sampled_from(["", "job", "all"]),
)
SETUPS = st.builds(
    Setup,
    st.sampled_from([None, LIMIT, 180, 5_000]),
    st.sampled_from([2, 4, 8]),
    st.integers(1, 6),
    st.lists(st.sampled_from([0.02, 0.02, 0.2]), max_size=8),
)


def requests(given: list[Row]) -> list[dict[str, Any]]:
    return [
        {"m": row.model, "text": "x" * row.text, "n": number, "marker": row.marker}
        for number, row in enumerate(given)
    ]


BODY = {
    "model": "{m}",
    "messages": [{"role": "user", "content": "{n} {text}"}],
    "metadata": {"devserver": "{marker}"},
}


def live(operator: Any, deaths: list[Death], out: Path) -> None:
    """As many tries as it takes; each death ends one."""
    for number in range(1, len(deaths) + 2):
        death = deaths[number - 1] if number <= len(deaths) else Death("", "", 0, "")
        MortalHook.doom = death[:3]
        renewed = fresh(operator)
        try:
            run_task(renewed, task_context(renewed, try_number=number))
        except Crash:
            if death.loses:
                shutil.rmtree(out if death.loses == "all" else out / "_job", ignore_errors=True)
        except BatchFailed:
            return
        else:
            return


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    given_rows=st.lists(ROWS, min_size=1, max_size=12),
    setup=SETUPS,
    deaths=st.lists(DEATHS, max_size=3),
)
def test_few_rejections_and_each_row_once(
    server: DevServer, given_rows: list[Row], setup: Setup, deaths: list[Death]
) -> None:
    """The limit is that of each model; how many are rejected depends on which batches end first."""
    server.reset()
    server.settings(batch_seconds=0.02, enqueued_token_limit=LIMIT, batch_seconds_by_number=setup.lengths)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        operator = job(
            out,
            MortalOperator,
            model=None,
            body=BODY,
            requests=requests(given_rows),
            max_requests_per_batch=setup.per_batch,
            max_enqueued_tokens=setup.told,
            max_rounds=2,
            poll_interval=0.02,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "_BYTES_PER_TOKEN", setup.per_token)
            live(operator, deaths, out)
        found = results(out)
        assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(len(given_rows))]
        assert [row["status"] for row in found] == ["succeeded"] * len(given_rows)
    stats = server.stats()
    assert stats["paid_more_than_once"] == 0
    assert stats["batches"]["running"] == 0
    failed = stats["batches"]["by_status"].get("failed", 0)
    models = len({row.model for row in given_rows})
    assert failed <= models * (4 + 2 * len(deaths))
