"""Each command against the dev server: what it prints, and the exit code that a script sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from scene import create, made_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

    Run = Callable[..., Any]

MINE = made_by("mine", "run_1", "ask", 2)


def wait(server: DevServer, batch_id: str, status: str = "completed") -> None:
    deadline = time.monotonic() + 10
    while not any(b["id"] == batch_id and b["status"] == status for b in server.batches()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def over(server: DevServer, *quirks: str | None, **metadata: str) -> str:
    batch_id = create(server, quirks=quirks or (None, None), metadata=metadata)
    wait(server, batch_id)
    return batch_id


def test_list(run: Run, server: DevServer) -> None:
    """Newest first, with DAG, run and task."""
    first, second = over(server), over(server, **MINE)
    done = run("list")
    assert done.code == 0
    lines = done.out.splitlines()
    assert second in lines[2]
    assert "run_1" in lines[2]
    assert "ask[2]" in lines[2]
    assert first in lines[3]


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_list_structured(run: Run, server: DevServer, output: str, read: Callable[[str], Any]) -> None:
    """All fields, and numbers as numbers."""
    batch_id = over(server)
    listed = read(run("list", "--output", output).out)
    assert [batch["id"] for batch in listed] == [batch_id]
    assert listed[0]["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_list_plain(run: Run, server: DevServer) -> None:
    """A header and a line for each batch, for cut and awk."""
    batch_id = over(server)
    header, line = run("list", "--output", "plain").out.splitlines()
    assert header.split()[:2] == ["id", "status"]
    assert line.split()[:3] == [batch_id, "completed", "2/2"]


def test_list_filters_and_limit(run: Run, server: DevServer) -> None:
    """Filters by status, DAG and run; the limit counts what they let through, over more than one page."""
    mine = over(server, **MINE)
    server.seed(150)
    ids = [batch["id"] for batch in json.loads(run("list", "--dag-id", "mine", "--output", "json").out)]
    assert ids == [mine]
    assert len(json.loads(run("list", "--limit", "120", "--output", "json").out)) == 120
    assert json.loads(run("list", "--status", "failed", "--output", "json").out) == []
    assert json.loads(run("list", "--run-id", "other", "--output", "json").out) == []


def test_list_of_nothing(run: Run, server: DevServer) -> None:
    """An empty account is no error."""
    done = run("list")
    assert (done.code, done.out.strip()) == (0, "No data found")


def test_hostile_metadata_does_not_reach_the_terminal(run: Run, server: DevServer) -> None:
    """Escape sequences, writing direction and rich's markup in metadata are shown as text or removed."""
    evil = "[red]x[/red]\x1b[2J\u202e"
    batch_id = over(server, airflow_dag_id=evil, note=evil)
    for command in (("list",), ("list", "--output", "plain"), ("show", batch_id)):
        out = run(*command).out
        assert "red]x" in out
        assert "\x1b" not in out
        assert "\u202e" not in out


def test_show(run: Run, server: DevServer) -> None:
    """Every property has its line."""
    batch_id = over(server, "fail:400", None, team="blue")
    done = run("show", batch_id)
    assert done.code == 0
    for words in (
        batch_id,
        "request_counts.failed",
        "metadata.team",
        "blue",
        "error_file_id",
        "usage.total_tokens",
    ):
        assert words in done.out
    assert json.loads(run("show", batch_id, "--output", "json").out)["metadata"] == {"team": "blue"}


@pytest.mark.parametrize("command", [("show",), ("watch",), ("cancel",), ("results",)])
def test_unknown_batch(run: Run, server: DevServer, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A sentence and code 2."""
    more = (str(tmp_path),) if command == ("results",) else ()
    done = run(*command, "batch_nope", *more)
    assert done.code == 2
    assert done.err.startswith("Error: HTTP 404")
    assert "batch_nope" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("batch_id", ["", "../files", "a b"])
def test_no_id(run: Run, server: DevServer, batch_id: str) -> None:
    """What cannot be an id is refused, and nothing is sent."""
    done = run("show", batch_id)
    assert done.code == 2
    assert "batch_id" in done.err
    assert not server.stats()["requests"]


def test_unknown_connection(run: Run, server: DevServer) -> None:
    """A sentence and code 2."""
    done = run("list", "--conn-id", "nope")
    assert (done.code, "no connection 'nope'" in done.err) == (2, True)


def test_a_connection_of_the_metadata_database(run: Run, server: DevServer) -> None:
    """A connection that was made in the UI works on the command line."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(
            Connection(conn_id="stored", conn_type="openai_batches", host=server.base_url, password="k")
        )
    try:
        assert run("list", "--conn-id", "stored").code == 0
    finally:
        with create_session() as session:
            session.query(Connection).delete()


def test_wrong_key_and_dead_host(run: Run, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a sentence, and the key is in neither of them."""
    value = {"conn_type": "openai_batches", "host": server.base_url, "password": "sk-wrong-key", "extra": {}}
    value["extra"] = {"max_attempts": 1}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(value))
    server.settings(api_keys=["right"])
    refused = run("list", "--conn-id", "other")
    server.stop()
    dead = run("list", "--conn-id", "other")
    assert (refused.code, dead.code) == (2, 2)
    assert "refuses the API key of connection 'other'" in refused.err
    assert "no answer from" in dead.err
    assert "sk-wrong-key" not in refused.err + dead.err


@pytest.mark.parametrize(("quirk", "code"), [(None, 0), ("fail:400", 1)])
def test_watch(run: Run, server: DevServer, quirk: str | None, code: int) -> None:
    """It prints each change, ends with the batch, and its code tells whether all went well."""
    batch_id = create(server, quirks=(quirk, None))
    done = run("watch", batch_id, "--interval", "0.05")
    assert done.code == code
    assert done.out.splitlines()[-1].startswith(f"{batch_id} completed")


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_watch_of_a_bad_end(run: Run, server: DevServer, status: str) -> None:
    """Code 1."""
    server.settings(freeze=True)
    batch_id = create(server)
    server.force(batch_id, status=status)
    assert run("watch", batch_id).code == 1


def test_watch_what_runs(run: Run, server: DevServer) -> None:
    """Without ids it watches all batches that are running, and prints their end as JSON on demand."""
    over(server)
    server.settings(batch_seconds=1.0)
    ids = {create(server), create(server)}
    done = run("watch", "--interval", "0.1", "--output", "json")
    assert done.code == 0
    assert {(batch["id"], batch["status"]) for batch in json.loads(done.out)} == {
        (i, "completed") for i in ids
    }
    assert run("watch").err == "No batch is running.\n"


def test_watch_many_by_list(run: Run, server: DevServer) -> None:
    """More than a few batches cost one list in each round instead of a request each."""
    server.settings(batch_seconds=1.0)
    ids = [create(server) for _ in range(12)]
    done = run("watch", *ids, "--interval", "0.2", "--output", "plain")
    assert done.code == 0
    assert len(done.out.splitlines()) == 13
    assert server.stats()["requests"]["retrieve_batch"] < 40


def test_cancel_one(run: Run, server: DevServer) -> None:
    """A single batch is cancelled without a question."""
    server.settings(freeze=True)
    batch_id = create(server)
    done = run("cancel", batch_id, "--output", "json")
    assert done.code == 0
    assert json.loads(done.out)[0]["status"] == "cancelling"


def test_cancel_many_asks(run: Run, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a yes, or without a terminal to ask on, nothing is cancelled; with --yes all are."""
    server.settings(freeze=True)
    ids = [create(server), create(server)]
    alone = run("cancel", *ids)
    assert alone.code == 2
    assert "--yes" in alone.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert "Nothing was cancelled" in run("cancel", *ids).err
    assert "cancel_batch" not in server.stats()["requests"]
    assert run("cancel", *ids, "--yes").code == 0
    assert server.stats()["requests"]["cancel_batch"] == 2


def test_cancel_of_what_is_over(run: Run, server: DevServer) -> None:
    """A sentence and code 1; the others are still cancelled."""
    finished = over(server)
    server.settings(freeze=True)
    running = create(server)
    done = run("cancel", finished, running, "--yes")
    assert done.code == 1
    assert f"Batch {finished} is completed: there is nothing left to cancel." in done.err
    assert server.stats()["requests"]["cancel_batch"] == 1


def test_results(run: Run, server: DevServer, tmp_path: Path) -> None:
    """Both files are there, and code 1 says that some requests failed."""
    batch_id = over(server, None, "fail:400", None)
    directory = tmp_path / "new" / "folder"
    done = run("results", batch_id, str(directory), "--output", "json")
    assert done.code == 1
    assert len((directory / f"{batch_id}-output.jsonl").read_text().splitlines()) == 2
    assert len((directory / f"{batch_id}-errors.jsonl").read_text().splitlines()) == 1
    assert {entry["bytes"] for entry in json.loads(done.out)} == {
        path.stat().st_size for path in directory.iterdir()
    }
    assert run("results", over(server), str(tmp_path)).code == 0


@pytest.mark.parametrize("command", ["results", "watch"])
def test_files_that_are_named_late_are_waited_for(
    run: Run, server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """And it says so. Without them, a batch whose counts lag too looked like one that failed."""
    monkeypatch.setattr("airflow_provider_openai_batches.hooks.openai_batches.SETTLING_PAUSES", (0.05,) * 40)
    server.settings(output_id_lag_seconds=0.3)
    batch_id = over(server)
    more = (str(tmp_path),) if command == "results" else ("--output", "json")
    done = run(command, batch_id, *more)
    assert done.code == 0
    assert f"Batch {batch_id} is completed but does not name its files yet" in done.err
    if command == "results":
        assert len((tmp_path / f"{batch_id}-output.jsonl").read_text().splitlines()) == 2
    else:
        assert json.loads(done.out)[0]["output_file_id"]


def test_results_too_early(run: Run, server: DevServer, tmp_path: Path) -> None:
    """A running batch has no results yet: code 2, and how to wait."""
    server.settings(freeze=True)
    done = run("results", create(server), str(tmp_path))
    assert done.code == 2
    assert "airflow openai-batches watch" in done.err


def test_results_of_nothing(run: Run, server: DevServer, tmp_path: Path) -> None:
    """A batch that failed validation has no files: code 1, and the reason."""
    server.settings(freeze=True)
    batch_id = create(server)
    server.force(batch_id, status="failed", output_file_id=None, error_file_id=None)
    done = run("results", batch_id, str(tmp_path))
    assert done.code == 1
    assert "has no files" in done.err


def test_a_directory_that_is_a_file(run: Run, server: DevServer, tmp_path: Path) -> None:
    """A sentence instead of a stack trace."""
    batch_id = over(server)
    (tmp_path / "file").write_text("")
    done = run("results", batch_id, str(tmp_path / "file"))
    assert done.code == 2
    assert done.err.startswith("Error: ")


@pytest.mark.parametrize("arguments", [("list", "--limit", "0"), ("watch", "--interval", "nan"), ("cancel",)])
def test_bad_arguments(run: Run, server: DevServer, arguments: tuple[str, ...]) -> None:
    """Airflow's own usage message and code."""
    assert run(*arguments).code == 2


def programs() -> list[list[str]]:
    """What a user may type; the first one only where Airflow takes commands from providers."""
    from airflow.cli.cli_parser import ALL_COMMANDS_DICT

    airflows = [["airflow", "openai-batches"]] if "openai-batches" in ALL_COMMANDS_DICT else []
    return [*airflows, ["airflow_provider_openai_batches"]]


def test_as_a_program(server: DevServer) -> None:
    """``airflow openai-batches`` is there through the provider's entry point."""
    for program in programs():
        done = subprocess.run(
            [sys.executable, "-m", *program, "show", "batch_nope"],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("Error: HTTP 404")
