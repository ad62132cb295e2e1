"""The table of ends in the documents is true: each operator meets each end of a batch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from inferencekit import job, rows
from support import ENDPOINT, fresh, request_lines, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError
from airflow_provider_openai_batches.hooks.openai_batches import OpenAIBatchesHook
from airflow_provider_openai_batches.operators.openai_batches import (
    OpenAICancelBatchOperator,
    OpenAICreateBatchOperator,
    OpenAIDownloadBatchResultsOperator,
)
from airflow_provider_openai_batches.sensors.openai_batches import OpenAIBatchSensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.devserver import DevServer

pytestmark = pytest.mark.usefixtures("patience")
PAGE = Path(__file__).parents[2] / "docs" / "promise.md"
ROWS = 4


def table() -> list[tuple[str, str, str]]:
    """The table's cells: the end, the operator, and what the operator does."""
    lines = PAGE.read_text().partition("| the batch is ")[2].partition("\n\n")[0].splitlines()
    names = re.findall(r"`(\w+)`", lines[0])
    found = []
    for line in lines[2:]:
        end, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
        assert len(cells) == len(names)
        statuses, comma, answers = end.partition(", ")
        for status in statuses.split(" or "):
            found += [(f"{status}{comma}{answers}", *pair) for pair in zip(names, cells, strict=True)]
    return found


def run(operator: Any, try_number: int = 1) -> Any:
    """Run a task; return its result, its deferral, or the error that failed it."""
    try:
        return operator.execute(task_context(operator, try_number=try_number))
    except (TaskDeferred, AirflowFailException, InvalidInputError, BatchFailed) as end:
        return end


def end_it(server: DevServer, end: str) -> str:
    """Bring the batch to this end, and return its id."""
    (batch,) = server.batches()
    status, _, answers = end.partition(", ")
    if status == "being cancelled":
        OpenAIBatchesHook().cancel_batch(batch["id"])
    elif status in {"expired", "cancelled"}:
        server.force(
            batch["id"], status=status, after={"with some answers": 0.5, "without answers": 0.0}[answers]
        )
    elif status != "running":
        server.force(batch["id"], status=status)
    return str(batch["id"])


def marker(end: str) -> str:
    """What the dev server is told to do with each request."""
    return "fail:500*1" if end == "completed, every request failed" else ""


def new_lines(server: DevServer, first: str) -> int:
    """How many requests the batches have that were created after the first one."""
    paths = {file.wire.id: file.path for file in server.service.files.ledger}
    new = [batch["input_file_id"] for batch in server.batches() if batch["id"] != first]
    return sum(len(paths[file_id].read_text().splitlines()) for file_id in new)


def a_later_try(server: DevServer, operator: Any, end: str) -> str:
    """Say what the next try of a task does with the batch of its first one."""
    assert isinstance(run(operator), TaskDeferred)
    first = end_it(server, end)
    outcome = run(fresh(operator), try_number=2)
    if isinstance(outcome, BatchFailed):
        assert isinstance(run(fresh(operator), try_number=3), TaskDeferred)
        assert new_lines(server, first) == ROWS
        return "fails, and the next one sends all again"
    if lines := new_lines(server, first):
        return "sends all again" if lines == ROWS else "sends only the rest"
    if isinstance(outcome, TaskDeferred):
        return "waits"
    return "fails for good" if isinstance(outcome, AirflowFailException) else "uses it"


def one_batch(folder: Path, end: str) -> OpenAICreateBatchOperator:
    lines = request_lines(ROWS)
    if marker(end):
        lines = lines.replace(b'"model"', b'"metadata": {"devserver": "%s"}, "model"' % marker(end).encode())
    (folder / "in.jsonl").write_bytes(lines)
    return OpenAICreateBatchOperator(task_id="t", endpoint=ENDPOINT, input_file=str(folder / "in.jsonl"))


def create(server: DevServer, folder: Path, end: str) -> str:
    return a_later_try(server, one_batch(folder, end), end)


def infer(server: DevServer, folder: Path, end: str) -> str:
    asked = rows(ROWS, dict.fromkeys(range(ROWS), marker(end)))
    return a_later_try(server, job(folder / "out", requests=asked), end)


def given(server: DevServer, folder: Path, end: str) -> str:
    """Leave a batch at this end that another task made, and return its id."""
    assert isinstance(run(one_batch(folder, end)), TaskDeferred)
    return end_it(server, end)


def sense(server: DevServer, folder: Path, end: str) -> str:
    outcome = run(OpenAIBatchSensor(task_id="t", batch_id=given(server, folder, end)))
    if isinstance(outcome, AirflowFailException):
        return "fails for good"
    return "waits" if isinstance(outcome, TaskDeferred) else "succeeds"


def download(server: DevServer, folder: Path, end: str) -> str:
    batch_id = given(server, folder, end)
    operator = OpenAIDownloadBatchResultsOperator(
        task_id="t", batch_id=batch_id, output_uri=str(folder / "out")
    )
    outcome = run(operator)
    if isinstance(outcome, Exception):
        return "fails"
    files = [kind for kind in ("output", "errors") if outcome[kind]]
    assert sorted(path.name for path in (folder / "out").glob("*")) == sorted(
        f"{batch_id}-{kind}.jsonl" for kind in files
    )
    return "downloads"


def cancel(server: DevServer, folder: Path, end: str) -> str:
    batch_id = given(server, folder, end)
    (before,) = server.batches()
    assert run(OpenAICancelBatchOperator(task_id="t", batch_id=batch_id))["id"] == batch_id
    (after,) = server.batches()
    return "leaves it" if after["status"] == before["status"] else "cancels it"


DOES: dict[str, Callable[[DevServer, Path, str], str]] = {
    "OpenAICreateBatchOperator": create,
    "OpenAIBatchInferenceOperator": infer,
    "OpenAIBatchSensor": sense,
    "OpenAIDownloadBatchResultsOperator": download,
    "OpenAICancelBatchOperator": cancel,
}


@pytest.mark.parametrize(("end", "operator", "claim"), table())
def test_what_the_readme_says_of_an_end(  # noqa: PLR0917 - a table
    server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, operator: str, claim: str
) -> None:
    """A cell is what the operator does."""
    monkeypatch.setattr("airflow_provider_openai_batches.hooks.openai_batches.SETTLING_PAUSES", (0.01,))
    server.settings(freeze=True)
    assert DOES[operator](server, tmp_path, end) == claim


def test_the_table_has_each_operator_and_each_end() -> None:
    """So that none is forgotten."""
    ends = {end.partition(",")[0] for end, *_ in table()}
    assert ends == {"running", "being cancelled", "completed", "failed", "expired", "cancelled"}
    assert {operator for _, operator, _ in table()} == set(DOES)
