"""The temporary directory of a process that was killed goes with the next job; that of a live one stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from airflow_provider_openai_batches.inference.workspace import Workspace
from airflow_provider_openai_batches.storage import as_path, whole
from airflow_provider_openai_batches.storage.scratch import SCRATCH_PREFIX, Scratch

PROGRAMS = {
    "a job": """
from airflow_provider_openai_batches.inference.workspace import Workspace
place = Workspace("memory://scratch/out", "me")
print(place.begin(), flush=True)
input()
""",
    "a file": """
from pathlib import Path
from airflow_provider_openai_batches.storage import as_path, whole
with whole(as_path("memory://scratch/a")) as file:
    print(Path(file.name).parent, flush=True)
    input()
""",
}


def age(directory: Path, seconds: float = 3_600) -> None:
    moment = directory.stat().st_mtime - seconds
    os.utime(directory, (moment, moment))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_scratch_of_a_killed_process(folder: Path, kind: str) -> None:
    """While it lives, its files are in use, however old; once it is killed, the next job removes them."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAMS[kind]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = next(Path(line.strip()) for line in process.stdout if SCRATCH_PREFIX in line)
        (left / "shard-00000.jsonl").write_text("prompts")
        age(left)
        other = Workspace("memory://scratch/other", "you")
        other.begin()
        other.close()
        assert (left / "shard-00000.jsonl").exists()
        process.kill()
    age(folder / left.name)
    other.begin()
    other.close()
    assert not left.exists()
    assert (left.parent, left.name.startswith(SCRATCH_PREFIX)) == (folder, True)


def test_what_is_not_removed(folder: Path) -> None:
    """A directory that is young and has no lock yet, a link, and what others call something else."""
    young, other, link = (
        folder / f"{SCRATCH_PREFIX}young",
        folder / "openai-batches-x",
        folder / f"{SCRATCH_PREFIX}link",
    )
    young.mkdir()
    other.mkdir()
    age(other)
    link.symlink_to(other)
    scratch = Scratch()
    assert young.exists()
    assert other.exists()
    assert link.exists()
    assert oct(scratch.path.stat().st_mode & 0o777) == "0o700"
    scratch.close()
    assert not scratch.path.exists()
    age(young)
    Scratch().close()
    assert not young.exists()


def test_what_other_users_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is theirs to remove; nothing in it is opened, whatever it is."""
    left = folder / f"{SCRATCH_PREFIX}theirs"
    left.mkdir()
    os.mkfifo(left / ".in-use")  # to open it would take for ever
    age(left)
    monkeypatch.setattr(os, "getuid", lambda: left.stat().st_uid + 1)
    Scratch().close()
    assert left.exists()


def test_a_file_on_its_way_to_a_store(folder: Path) -> None:
    """Nothing stays of it, whether it arrives or not."""
    target = as_path(f"memory://scratch/{folder.name}/a")
    broken = whole(target)
    broken.__enter__().write(b"half")
    assert broken.__exit__(KeyError, KeyError(), None) is False
    assert not target.exists()
    with whole(target) as file:
        file.write(b"all")
    assert target.read_bytes() == b"all"
    assert list(folder.iterdir()) == []
