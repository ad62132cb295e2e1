"""Starting and stopping: threads, processes, the fixture, and how long all that takes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import httpx
import pytest
from devserver_api import wait_until

from airflow_provider_openai_batches.devserver import DevServer, DevServerClient

if TYPE_CHECKING:
    from devserver_api import Api

Starter = Callable[..., tuple[subprocess.Popen[str], str]]

PROGRAM = [sys.executable, "-m", "airflow_provider_openai_batches.devserver"]


def port_of(server: DevServer) -> int:
    port = httpx.URL(server.base_url).port
    assert port is not None
    return port


def test_stop_and_start(server: DevServer, api: Api) -> None:
    """While the server is stopped, connections are refused; afterwards the same port has the same batches."""
    batch, url = api.create([api.line()]), server.base_url
    server.stop()
    with pytest.raises(httpx.ConnectError):
        api.http.get("/batches")
    server.start()
    assert server.base_url == url
    assert api.wait(batch["id"])["status"] == "completed"


def test_stop_cuts_idle_and_busy_connections(server: DevServer, api: Api) -> None:
    """A stop waits neither for idle connections nor for slow answers."""
    api.http.get("/batches")
    server.settings(latency=30)
    failures = []

    def slow() -> None:
        try:
            api.http.get("/batches")
        except httpx.TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    wait_until(lambda: server.stats()["in_flight"])
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    thread.join(5)
    assert len(failures) == 1


def test_nothing_is_left(api: Api, server: DevServer) -> None:
    """A closed server leaves no thread and no folder behind."""
    before = set(threading.enumerate())
    with DevServer(batch_seconds=0.01) as other:
        api.http.base_url = other.base_url
        batch = api.run([api.line()])
        api.results(batch["output_file_id"])
        folder = other.service.files.new_path().parent
        assert folder.exists()
    gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= before)  # a worker thread ends a moment later
    assert not folder.exists()


def test_the_process_keeps_its_own_event_loops(server: DevServer) -> None:
    """The server runs on its own event loop, and does not change what others in the process get."""
    assert server.base_url
    assert type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy
    with asyncio.Runner() as runner:
        assert type(runner.get_loop()).__module__.startswith("asyncio.")


def test_starts_fast() -> None:
    """Starting a server for every test takes little time (some 10 ms; here is room for a busy machine)."""
    began = time.monotonic()
    for _ in range(10):
        with DevServer():
            pass
    assert (time.monotonic() - began) / 10 < 0.5


def test_port_in_use(server: DevServer) -> None:
    """A port that is taken raises an error at once."""
    other = DevServer(port=port_of(server))
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.close()


def test_data_dir(tmp_path: Path, api: Api) -> None:
    """Files can be kept in a folder of the user's, which is not removed."""
    with DevServer(data_dir=tmp_path / "files") as server:
        api.http.base_url = server.base_url
        file = api.upload(b"content")
    assert (tmp_path / "files" / file["id"]).read_bytes() == b"content"


def test_many_connections(server: DevServer) -> None:
    """A thousand clients can be connected at the same time."""
    url = httpx.URL(server.base_url)
    request = b"GET /v1/batches HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n\r\n"
    connections = [socket.create_connection((url.host, url.port), timeout=10) for _ in range(1000)]
    try:
        for connection in connections:
            connection.sendall(request)
        assert {connection.recv(15) for connection in connections} == {b"HTTP/1.1 200 OK"}
    finally:
        for connection in connections:
            connection.close()


def output_of(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Starter]:
    """Starts the program, and gives its process and base URL."""
    started = []

    def start(*options: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [*PROGRAM, "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), **environment},
        )
        started.append(process)
        return process, output_of(process).readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        output_of(process).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program(program: Starter, tmp_path: Path, api: Api, number: signal.Signals) -> None:
    """The program prints its URL, honours its options, and ends cleanly on a signal."""
    process, url = program("--batch-seconds", "0.1", "--api-key", "secret", "--latency", "0.01")
    api.http.base_url = url
    assert api.http.get("/batches").status_code == 401
    api.http.headers["authorization"] = "Bearer secret"
    assert api.run([api.line()])["status"] == "completed"
    with DevServerClient(url) as control:
        assert control.stats()["batches"]["stored"] == 1
    assert list(tmp_path.iterdir()) != []
    process.send_signal(number)
    assert process.wait(5) == 0
    assert list(tmp_path.iterdir()) == []


def test_program_imports_little() -> None:
    """Neither Airflow, nor requests, nor anything else of this package is imported."""
    code = "import sys, airflow_provider_openai_batches.devserver.__main__; print(*sys.modules, sep='\\n')"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"airflow", "requests"} & set(modules)
    package = "airflow_provider_openai_batches"
    assert f"{package}.devserver.endpoints" in modules
    own = (f"{package}.devserver", f"{package}.devserver.")
    assert [
        name
        for name in modules
        if name.startswith(f"{package}.") and name != own[0] and not name.startswith(own[1])
    ] == []


def test_program_reports_a_taken_port(server: DevServer) -> None:
    """The program says which port is taken, without a traceback."""
    port = str(port_of(server))
    run = subprocess.run([*PROGRAM, "--port", port], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert port in run.stderr
    assert "Traceback" not in run.stderr


def test_no_key_in_the_help() -> None:
    """The help does not show a key from the environment."""
    environment = {**os.environ, "DEVSERVER_UPSTREAM_KEY": "hidden-key"}
    text = subprocess.check_output([*PROGRAM, "--help"], text=True, env=environment)
    assert "DEVSERVER_UPSTREAM_KEY" in text
    assert "hidden-key" not in text


def test_large_files_need_little_memory(program: Starter, tmp_path: Path, api: Api) -> None:
    """A file of over 200 MB is stored and sent in pieces; a batch with it fails because of its size."""
    process, url = program("--batch-seconds", "0.1")
    api.http.base_url = url

    def peak() -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    before = peak()
    content = tmp_path / "big"
    with content.open("wb") as target:
        target.truncate(200_000_001)
    with content.open("rb") as source:
        answer = api.http.post("/files", data={"purpose": "batch"}, files={"file": ("big", source)})
    file = answer.raise_for_status().json()
    assert file["bytes"] == 200_000_001
    with api.http.stream("GET", f"/files/{file['id']}/content") as download:
        assert sum(len(piece) for piece in download.iter_raw()) == 200_000_001
    assert peak() - before < 30
    batch = api.wait(api.http.post("/batches", json=api.params(file["id"])).json()["id"])
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "file_too_large")


def test_fixture(tmp_path: Path) -> None:
    """In a test suite that opts in, each test gets its own server, and the connection to it."""
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["airflow_provider_openai_batches.devserver.pytest_plugin"]\n'
    )
    (tmp_path / "test_it.py").write_text(
        """
import json, os, time, httpx, pytest

@pytest.mark.parametrize("number", range(10))
def test_server(openai_batches_server, number):
    connection = json.loads(os.environ["AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT"])
    assert connection["conn_type"] == "openai_batches"
    headers = {"authorization": "Bearer " + connection["password"]}
    assert httpx.get(connection["host"] + "/files", headers=headers).json()["data"] == []
    files = {"file": ("f", b"x")}
    httpx.post(connection["host"] + "/files", headers=headers, data={"purpose": "batch"}, files=files)

def test_afterwards():
    assert "AIRFLOW_CONN_OPENAI_BATCHES_DEFAULT" not in os.environ
"""
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "11 passed" in run.stdout, run.stdout + run.stderr
