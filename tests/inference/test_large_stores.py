"""A job whose output is a store needs room on its worker for a part of its files alone, whatever its size."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from fsspec import AbstractFileSystem
from inferencekit import Crash, MortalHook, MortalOperator, again, job, rows, waits
from support import run_task

from airflow_provider_openai_batches.inference import workspace
from airflow_provider_openai_batches.inference.data import row_results
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

FAULTS = {3: "fail:503*1", 40: "fail:429*2", 77: "fail:400"}


def size_of(path: Path) -> int:
    """Of a file that another thread may have removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of requests and results on the worker, whenever it looks; nothing may stay that need not."""
    found = []
    get = workspace.Workspace._get

    def is_full(place: workspace.Workspace) -> bool:
        data = [*place.local.glob("shard-*[0-9].jsonl"), *place.local.glob("batch_*")]
        found.append(sum(map(size_of, data)))
        return True

    def get_and_look(place: workspace.Workspace, name: str) -> None:
        get(place, name)
        is_full(place)

    monkeypatch.setattr(workspace, "SPARE_BYTES", 0)
    monkeypatch.setattr(row_results, "_BLOCK_ROWS", 5)  # as many as a file has
    monkeypatch.setattr(workspace.Workspace, "_is_full", is_full)
    monkeypatch.setattr(workspace.Workspace, "_get", get_and_look)
    return found


def outputs(uri: str) -> list[dict[str, Any]]:
    place = as_path(uri)
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "part-00000.jsonl"]
    return [json.loads(line) for line in (place / "part-00000.jsonl").read_bytes().splitlines()]


def in_parts(**kwargs: Any) -> tuple[str, Any]:
    uri = f"memory://large/{uuid.uuid4().hex}"
    given = {"requests": rows(100, FAULTS), "max_requests_per_batch": 5, **kwargs}
    return uri, job(uri, MortalOperator, **given)


def good(uri: str, server: DevServer) -> None:
    found = outputs(uri)
    assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(100)]
    assert [row["output"].endswith(f"row {n}") for n, row in enumerate(found) if n != 77] == [True] * 99
    assert found[77]["status"] == "failed"
    assert server.stats()["paid_more_than_once"] == 0


@pytest.mark.parametrize("faults", [FAULTS, {**dict.fromkeys(range(100), "fail:429*1"), 77: "fail:400"}])
def test_a_worker_holds_a_part_of_the_job(server: DevServer, seen: list[int], faults: dict[int, str]) -> None:
    """Twenty request files and twenty result files, or twice as many: never more than a few are here."""
    uri, operator = in_parts(requests=rows(100, faults))
    run_task(operator)
    good(uri, server)
    sent = sum(batch["request_counts"]["total"] for batch in server.batches())
    assert sent > 100  # other rounds took request files again
    # The requests of a round have 20,000 bytes, its results 65,000; four or five files are in use at once.
    assert 0 < max(seen) < 18_000


def test_the_files_do_not_depend_on_the_room(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later try with more room finds the batches of a first one that had to move each file."""
    server.settings(freeze=True)
    monkeypatch.setattr(workspace, "SPARE_BYTES", 0)
    uri, operator = in_parts(max_enqueued_tokens=1_000_000)
    next(waits(operator))
    assert len(server.batches()) == 20
    server.settings(freeze=False)
    monkeypatch.setattr(workspace, "SPARE_BYTES", 1 << 30)
    again(operator)
    good(uri, server)


@pytest.mark.parametrize(
    ("operation", "count"), [("upload_file", 1), ("create_batch", 3), ("download_file", 2), ("", 0)]
)
def test_a_crash_leaves_nothing_in_the_store(
    server: DevServer, seen: list[int], monkeypatch: pytest.MonkeyPatch, operation: str, count: int
) -> None:
    """Also one while the request files are written, which lie under a name of their own until then."""
    uri, operator = in_parts()
    if operation:
        MortalHook.doom = (operation, "after", count)
    else:
        monkeypatch.setattr(workspace.Workspace, "keep", _die)
        monkeypatch.setattr(workspace.Workspace, "discard", _die)
    with pytest.raises(Crash):
        run_task(operator)
    MortalHook.doom = ("", "", 0)
    monkeypatch.undo()
    again(operator)
    good(uri, server)


def _die(*_: Any, **__: Any) -> None:
    raise Crash


def test_bad_rows_leave_nothing_in_the_store(server: DevServer, seen: list[int]) -> None:
    """The request files before the bad row were in the store already."""
    uri, operator = in_parts(max_requests=99)
    with pytest.raises(Exception, match="max_requests=99"):
        run_task(operator)
    assert not as_path(uri).exists() or not list(as_path(uri).rglob("*.jsonl"))
    assert server.stats()["requests"] == {}


def test_a_store_that_cannot_copy(
    server: DevServer, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the files go by way of the worker."""
    uri, operator = in_parts()
    monkeypatch.setattr(type(as_path(uri).fs), "cp_file", AbstractFileSystem.cp_file)
    run_task(operator)
    good(uri, server)
