"""Real processes: two tasks with one output directory, and a task that was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import again, job, results, rows

from airflow_provider_openai_batches.operators.inference import OpenAIBatchInferenceOperator

if TYPE_CHECKING:
    from airflow_provider_openai_batches.devserver import DevServer

PROGRAM = """
import json, sys
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Store(LocalFileSystem):
    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path):
        return str(path).removeprefix("disk://")

fsspec.register_implementation("disk", Store)
sys.path.insert(0, {tests!r})
from inferencekit import job, rows
from support import run_task, task_context

uri, map_index, count, more = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
operator = job(uri, requests=rows(count), **more)
print("ready", flush=True)
sys.stdin.readline()
try:
    summary = run_task(operator, task_context(operator, map_index=map_index))
    print("done", summary["counts"]["succeeded"], flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


class Task:
    """A task in a process of its own."""

    def __init__(self, uri: Any, map_index: int, count: int, **more: Any) -> None:
        program = PROGRAM.replace("{tests!r}", repr(str(Path(__file__).parents[1])))
        command = [sys.executable, "-W", "ignore", "-c", program, str(uri), str(map_index), str(count)]
        self.process = subprocess.Popen(
            [*command, json.dumps(more)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def line(self) -> str:
        """The next line of its own, without those of its log."""
        assert self.process.stdout is not None
        return next(
            line.strip()
            for line in self.process.stdout
            if line.startswith(("ready", "done", "Unusable", "Invalid", "BatchFailed"))
        )

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("form", ["{out}", "disk://{out}"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_instances_with_one_output(server: DevServer, out: Path, form: str, *, overwrite: bool) -> None:
    """One has its rows; the other is refused, told what to do, and deletes nothing."""
    tasks = [Task(form.format(out=out), index, 3 + index, overwrite=overwrite) for index in (0, 1)]
    try:
        for task in tasks:
            assert task.line() == "ready"
        for task in tasks:
            task.start()
        said = sorted((task.line() for task in tasks), key=lambda line: not line.startswith("done"))
    finally:
        for task in tasks:
            task.end()
    done, refused = said
    assert done in {"done 3", "done 4"}
    assert refused.startswith("UnusableInputError")
    assert "ti.map_index" in refused
    assert len(results(out)) == int(done.removeprefix("done "))
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "part-00000.jsonl"]


def test_a_task_that_was_killed(server: DevServer, out: Path) -> None:
    """Its claim does not stop its own next try, which pays for nothing again; another task is refused."""
    server.settings(freeze=True)
    killed = Task(out, 0, 3, deferrable=False)
    try:
        assert killed.line() == "ready"
        killed.start()
        while not server.batches():
            assert killed.process.poll() is None
    finally:
        killed.end()
    server.settings(freeze=False)
    other = Task(out, 1, 5)
    try:
        other.line()
        other.start()
        assert other.line().startswith("UnusableInputError Task t[0] of DAG dag, run run, has been writing")
    finally:
        other.end()
    operator = job(out, OpenAIBatchInferenceOperator, requests=rows(3))
    assert again(operator, map_index=0)["counts"]["succeeded"] == 3
    assert len(server.batches()) == 1
    assert len(results(out)) == 3
