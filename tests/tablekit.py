"""A task from rows to a table, and a process that runs a try of it and dies where it is told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any

import doomed
import pytest
from inferencekit import job
from support import fresh, run_task, task_context

from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.inference.claim import ClaimFile
from airflow_provider_openai_batches.inference.results import JobResults
from airflow_provider_openai_batches.inference.workspace import Workspace
from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator
from airflow_provider_openai_batches.sql.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ROWS = [{"iata": f"X{n}", "city": f"Town {n % 3}", "text": f"row {n}"} for n in range(5)]
LABELS = {"iata": "custom_id", "label": "output"}
TEXT = {"messages": [{"role": "user", "content": "{text}"}]}
STEPS = (
    (OpenAIBatchesHook, "create_batch"),
    (OpenAIBatchesHook, "download_file"),
    (JobResults, "finish"),
    (Workspace, "clear"),
    (ClaimFile, "release"),
    (Session, "run"),
    (Session, "run_many"),
    (Session, "commit"),
)


def classify(out: Path, operator: type = OpenAIBatchInferenceOperator, **options: Any) -> Any:
    given = {
        "body": TEXT,
        "id_column": "iata",
        "output_table": "labels",
        "output_conn_id": "warehouse",
        "output_columns": LABELS,
        "output_key": "iata",
        **options,
    }
    if not {"requests", "sql", "python_callable"} & set(given):
        given["requests"] = ROWS
    return job(out, operator, **given)


RETRIES = 9


def tried(operator: Any, try_number: int = 1, *, is_cleared: bool = False) -> Any:
    """
    Run one try, on a new object, of a task that has tries left.

    :param is_cleared: whether it was cleared when its tries were used up.
    """
    renewed = fresh(operator)
    renewed.retries = RETRIES
    max_tries = RETRIES + (RETRIES + 1) * is_cleared
    return run_task(renewed, task_context(renewed, try_number=try_number, max_tries=max_tries))


def dies_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Kill this process before or after the Nth of these calls."""
    count = 0

    def pass_by() -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Any:
        def stepped(*arguments: Any, **options: Any) -> Any:
            pass_by()
            found = function(*arguments, **options)
            pass_by()
            return found

        return stepped

    for kind, name in STEPS:
        patch.setattr(kind, name, around(getattr(kind, name)))


def die(environment: dict[str, str], out: Path, options: Mapping[str, Any], numbers: tuple[int, int]) -> None:
    """Run a try in this process, which dies at a step."""
    os.environ.update(environment)
    try_number, step = numbers
    dies_at(step, pytest.MonkeyPatch())
    tried(classify(out, **options), try_number)


def dies(out: Path, options: Mapping[str, Any], try_number: int, step: int) -> bool:
    """Run a try in a process of its own; return whether it died at this step."""
    doomed.prepare()
    processes = multiprocessing.get_context("forkserver")
    child = processes.Process(target=die, args=(dict(os.environ), out, options, (try_number, step)))
    child.start()
    child.join()
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode != 0
