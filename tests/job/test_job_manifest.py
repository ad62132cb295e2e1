"""The manifest, and which job a directory belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jobkit import CHAT, Service, prepare
from upath import UPath

from airflow_provider_openai_batches import storage
from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, BatchRecord, Manifest
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.target import check_target
from airflow_provider_openai_batches.storage import read_json, write_json


def made(tmp_path: Path) -> Manifest:
    job = prepare(tmp_path / "work", ["a", "b"])
    merged = merge(Service(tmp_path / "work", {(0, "row-1"): "invalid"}).index(job), tmp_path / "out")
    record = BatchRecord(shard=0, round=0, batch_id="batch_1", status="completed", counts={"total": 2})
    return Manifest(
        digest=job.digest,
        endpoint=CHAT,
        output_format="jsonl",
        batches=[record],
        times={"finished": "2025-01-31T12:00:00Z"},
        rows=job.rows,
        **msgspec.structs.asdict(merged),
    )


def test_manifest(tmp_path: Path) -> None:
    """It is read as it was written, and is plain JSON."""
    manifest = made(tmp_path)
    write_json(tmp_path / "out" / MANIFEST_FILE, manifest)
    assert read_json(tmp_path / "out" / MANIFEST_FILE, Manifest, "{}") == manifest
    written = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert written == msgspec.to_builtins(manifest)
    assert written["rows"] == 2
    assert written["counts"] == {
        "succeeded": 1,
        "failed": 1,
        "invalid_output": 0,
        "expired": 0,
        "cancelled": 0,
        "missing": 0,
    }
    assert written["errors"] == {"invalid": {"count": 1, "message": "no", "custom_id": "row-1"}}
    assert written["truncated"] == 0
    assert written["usage"]["total_tokens"] == 5
    assert written["batches"][0]["batch_id"] == "batch_1"
    assert written["parts"][0]["file"] == "part-00000.jsonl"


def test_free_directory(tmp_path: Path) -> None:
    """A missing directory is made, and the check leaves nothing in it."""
    for directory in (tmp_path / "a" / "b", str(tmp_path / "c"), UPath("memory:///target")):
        assert check_target(directory, "digest") is None
        assert list(UPath(directory).iterdir()) == []


def test_the_check_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever others put into a shared directory; and two checks at one moment do not meet."""
    others = tmp_path / "others"
    others.write_text("theirs")
    (tmp_path / ".airflow-write-check").symlink_to(others)
    opened: list[Path] = []
    real = storage.open_binary

    def open_binary(path: Path, mode: str = "rb") -> Any:
        opened.append(path)
        if len(opened) == 1:
            assert check_target(tmp_path, "digest") is None
        return real(path, mode)

    monkeypatch.setattr(storage, "open_binary", open_binary)
    assert check_target(tmp_path, "digest") is None
    assert opened[0] != opened[1]
    assert others.read_text() == "theirs"


def test_directory_of_this_job(tmp_path: Path) -> None:
    """The manifest of the same job says that there is nothing left to do."""
    manifest = made(tmp_path)
    write_json(tmp_path / "out" / MANIFEST_FILE, manifest)
    assert check_target(tmp_path / "out", manifest.digest) == manifest
    assert check_target(tmp_path / "out") is None


def test_directory_of_another_job(tmp_path: Path) -> None:
    """Results of another job are replaced only if the user says so."""
    write_json(tmp_path / "out" / MANIFEST_FILE, made(tmp_path))
    with pytest.raises(
        InvalidInputError, match=r"holds the results of another job \(2 rows, .*overwrite=True"
    ):
        check_target(tmp_path / "out", "digest")
    assert check_target(tmp_path / "out", "digest", overwrite=True) is None


def test_manifest_of_something_else(tmp_path: Path) -> None:
    """A file of that name that is not a manifest belongs to somebody else."""
    (tmp_path / "manifest.json").write_text('{"short_name": "web app"}')
    with pytest.raises(InvalidInputError, match=r"manifest\.json is not the manifest of a job"):
        check_target(tmp_path, "digest")
    assert check_target(tmp_path, "digest", overwrite=True) is None


def _file(tmp_path: Path) -> Any:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "out"


@pytest.mark.parametrize("target", [_file, lambda _: Path("/proc/out")], ids=["under a file", "read-only"])
def test_directory_that_cannot_be_written(tmp_path: Path, target: Any) -> None:
    """Found before anything is spent."""
    with pytest.raises(InvalidInputError, match=r"The output directory .*out cannot be written"):
        check_target(target(tmp_path), "digest")


def test_manifest_of_an_earlier_version(tmp_path: Path) -> None:
    """It does not say how many answers were cut off, and is read all the same."""
    manifest = msgspec.to_builtins(made(tmp_path))
    del manifest["truncated"]
    write_json(tmp_path / "out" / MANIFEST_FILE, manifest)
    assert read_json(tmp_path / "out" / MANIFEST_FILE, Manifest, "{}") == made(tmp_path)
