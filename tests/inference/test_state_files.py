"""What lies in ``_job/`` may have been written by somebody else: it names files of that directory alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inferencekit import again, job, results, rows, waits

from airflow_provider_openai_batches.inference.records import Records
from airflow_provider_openai_batches.inference.workspace import Workspace
from airflow_provider_openai_batches.storage import is_bare_name

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer


@pytest.mark.parametrize("form", ["{secret}", "../../secret.txt", "..", "sub/file"])
def test_no_file_of_the_worker_is_read(server: DevServer, out: Path, form: str) -> None:
    """Records that name another file count as lost; the batches are found at the service."""
    secret = out.parent / "secret.txt"
    secret.write_text("the worker's own\n")
    operator = job(out, requests=rows(3))
    waiting = waits(operator)
    next(waiting)
    (records,) = out.glob("_job/*/batches.json")
    told = json.loads(records.read_bytes())
    told["by_shard"]["0"]["files"] = [form.format(secret=secret)]
    records.write_text(json.dumps(told))
    assert again(operator)["counts"]["succeeded"] == 3
    assert len(results(out)) == 3
    assert not (out / "unreadable.txt").exists()
    assert server.stats()["paid_more_than_once"] == 0


def test_records_without_end(tmp_path: Path) -> None:
    """They count as lost, whatever is wrong with them."""
    (tmp_path / "batches.json").write_text("[" * 100_000)
    assert Records.load(tmp_path) is None


@given(st.text())
@example("batch_1-output.jsonl")
@example("a/b")
@example("a\\b")
@example("a\x00")
@example("a\n")
def test_a_bare_name_leads_nowhere_else(name: str) -> None:
    if is_bare_name(name):
        assert not {"/", "\\", "\x00", "\n"} & set(name)
        assert name not in {"", ".", ".."}
    assert is_bare_name("batch_1-output.jsonl")


def test_the_name_of_a_jobs_directory_is_one_too(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    assert not Workspace(tmp_path / "out", "me").open("../..")


def test_prompts_are_readable_by_their_owner_alone(server: DevServer, out: Path) -> None:
    next(waits(job(out, requests=rows(1))))
    for folder in [out / "_job", *(path for path in (out / "_job").iterdir() if path.is_dir())]:
        assert oct(folder.stat().st_mode & 0o777) == "0o700"
