"""Uploads that run at the same time hold a bounded part of their files in memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_openai_batches.inference.workspace import Workspace
from airflow_provider_openai_batches.storage import as_path, whole
from airflow_provider_openai_batches.storage.uploads import BYTES_AT_ONCE, put_file

MEGABYTE = 1 << 20


class Client:
    """A client that reads whole files; ``meeting`` is how many have to be under way before one ends."""

    def __init__(self, meeting: int = 1) -> None:
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(meeting)
        self._now = self.most = 0
        self.sent: dict[str, dict[str, Any]] = {}

    def put_file(self, source: str, target: str, **options: Any) -> None:
        size = Path(source).stat().st_size
        with self._lock:
            self._now += size
            self.most = max(self.most, self._now)
            self.sent[target] = options
        self._meeting.wait(30)
        with self._lock:
            self._now -= size


class InPieces(Client):
    def put_file(self, source: str, target: str, chunksize: int = 0, **options: Any) -> None:
        super().put_file(source, target, chunksize=chunksize, **options)

    async def _put_file(self, source: str, target: str, chunksize: int = 0) -> None:
        raise NotImplementedError


def send(client: Client, folder: Path, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        with (folder / str(number)).open("wb") as file:
            file.truncate(size)
    with ThreadPoolExecutor(len(sizes)) as pool:
        names = [str(number) for number in range(len(sizes))]
        list(pool.map(lambda name: put_file(client, str(folder / name), name), names))


def test_large_files_wait_for_each_other(tmp_path: Path) -> None:
    client = Client()
    send(client, tmp_path, [35 * MEGABYTE] * 4 + [10 * MEGABYTE] * 4)
    assert len(client.sent) == 8
    assert client.most <= BYTES_AT_ONCE


def test_small_files_go_at_the_same_time(tmp_path: Path) -> None:
    client = Client(meeting=4)
    send(client, tmp_path, [10 * MEGABYTE] * 4)
    assert client.most == 40 * MEGABYTE


def test_a_file_larger_than_the_bound_goes_alone_and_in_pieces(tmp_path: Path) -> None:
    client = InPieces()
    send(client, tmp_path, [300 * MEGABYTE, 300 * MEGABYTE])
    assert client.most == 300 * MEGABYTE
    assert client.sent["0"] == {"chunksize": BYTES_AT_ONCE // 2}


def test_an_upload_that_fails_leaves_its_room_to_others(tmp_path: Path) -> None:
    class Broken(Client):
        def put_file(self, source: str, target: str, **_: Any) -> None:
            raise OSError(target)

    for _ in range(3):
        with pytest.raises(OSError, match="0"):
            send(Broken(), tmp_path, [40 * MEGABYTE])
    send(Client(), tmp_path, [40 * MEGABYTE])


def test_all_files_of_a_job_come_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    for module in ("storage", "inference.workspace"):
        monkeypatch.setattr(
            f"airflow_provider_openai_batches.{module}.put_file",
            lambda _fs, _source, target: sent.append(target.rsplit("/", 1)[-1]),
        )
    with whole(as_path("memory://uploads/part")) as file:
        file.write(b"1")
    place = Workspace("memory://uploads/out", "me")
    (place.begin() / "rows").write_bytes(b"1")
    place.store(["rows"])
    place.close()
    assert sent == ["part", "rows"]
