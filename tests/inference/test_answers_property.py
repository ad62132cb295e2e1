"""For any rows that are stored, equal or new, over several runs with deaths: each is paid for once."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from inferencekit import Crash, MortalHook, MortalOperator
from sharingkit import asked, outputs, sharing
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed
from airflow_provider_openai_batches.operators.inference_faults import LastingError

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

# What the dev server does with the requests of a text.
MARKERS = {"busy": "fail:429*1", "down": "fail:500*2", "bad": "fail:400", "no": "refuse", "gone": "omit"}
TEXTS = ["a", "b", "c", "d", "e", "f", *MARKERS]
OPERATIONS = ("upload_file", "create_batch", "retrieve_batch", "download_file")


class Death(NamedTuple):
    operation: str
    moment: str
    nth: int
    with_its_disk: bool


class Run(NamedTuple):
    """One run of the DAG."""

    texts: list[str]
    size: int
    is_sharing: bool
    mode: str
    canary: int
    deaths: list[Death]


DEATHS = st.builds(
    Death, st.sampled_from(OPERATIONS), st.sampled_from(["before", "after"]), st.integers(1, 4), st.booleans()
)
RUNS = st.builds(
    Run,
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from(["batch", "batch", "live"]),
    st.sampled_from([0, 0, 2]),
    st.lists(DEATHS, max_size=1),
)


def live(operator: Any, deaths: list[Death], out: Path) -> None:
    """As many tries as it takes; each death ends one."""
    for number, death in enumerate([*deaths, Death("", "", 0, with_its_disk=False)], 1):
        MortalHook.doom = death[:3]
        renewed = fresh(operator)
        try:
            run_task(renewed, task_context(renewed, try_number=number, run_id=out.name))
        except Crash:
            if death.with_its_disk:
                shutil.rmtree(out, ignore_errors=True)
        except (BatchFailed, LastingError):  # a canary that is no good
            return
        else:
            return


def check(out: Path, run: Run, before: set[str]) -> None:
    """Each row has its own answer; what other runs were answered is not asked."""
    for row, text in zip(outputs(out), run.texts, strict=True):
        if text in {"bad", "no"} or (text == "gone" and row["status"] == "missing"):
            assert row["status"] in {"failed", "missing"}
            continue
        assert row["status"] == "succeeded", row
        assert row["output"].endswith(text)
        if text in before:
            assert row["source"] in {"store", "duplicate"}, row


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(runs=st.lists(RUNS, min_size=2, max_size=3))
def test_any_mix_over_several_runs(server: DevServer, runs: list[Run]) -> None:
    server.reset()
    server.settings(batch_seconds=0.02)
    with tempfile.TemporaryDirectory() as folder:
        before: set[str] = set()
        for number, run in enumerate(runs):
            out = Path(folder) / str(number)
            operator = sharing(
                out,
                run.texts,
                MortalOperator,
                markers=MARKERS,
                max_requests_per_batch=run.size,
                deduplicate=run.is_sharing,
                answers_uri=str(Path(folder) / "answers"),
                mode=run.mode,
                canary=run.canary if run.mode == "batch" else 0,
                poll_interval=0.02,
                max_rounds=4,
            )
            live(operator, run.deaths, out)
            if out.exists() and list(out.glob("part-*")):
                check(out, run, before)
                before.update(
                    text
                    for text, row in zip(run.texts, outputs(out), strict=True)
                    if row["status"] == "succeeded"
                )
    stats = server.stats()
    assert stats["batches"]["running"] == 0
    twice = {line["custom_id"].partition("#")[0] for line in server.answers(2)}
    assert twice <= {"no", "gone"}, "a refusal is paid for and never stored, and an omitted answer is lost"
    if all(run.is_sharing for run in runs):
        counts = Counter({text: count for text, count in asked(server).items() if text in "abcdef"})
        assert max(counts.values(), default=0) <= 1, counts
