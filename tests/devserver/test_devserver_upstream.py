"""With an upstream, every request is sent to a real API."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import httpx
import msgspec
import pytest
from devserver_api import wait_until

from airflow_provider_openai_batches.devserver import DevServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devserver_api import Api, LeapingClock


class Model(BaseHTTPRequestHandler):
    """A model behind HTTP. The body of a request says what the answer is."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str | None]]] = []
    gate: ClassVar[threading.Event]
    active: ClassVar[int] = 0
    peak: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_POST(self) -> None:
        body = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
        with self.lock:
            self.seen.append((self.path, self.headers["authorization"]))
            Model.active += 1
            Model.peak = max(Model.peak, Model.active)
        self.gate.wait(10)
        time.sleep(0.005)
        with self.lock:
            Model.active -= 1
        content = body.get("raw", "").encode() or msgspec.json.encode(
            {"echo": body["messages"], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        )
        self.send_response(body.get("status", 200))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def model() -> Iterator[str]:
    Model.seen, Model.gate, Model.active, Model.peak = [], threading.Event(), 0, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        Model.gate.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def server(model: str, clock: LeapingClock) -> Iterator[DevServer]:
    with DevServer(
        batch_seconds=0.1, clock=clock, upstream=model, upstream_key="real-key", concurrency=4
    ) as running:
        yield running
        Model.gate.set()


def test_every_request_is_sent(server: DevServer, api: Api) -> None:
    """Status, body and usage are those of the upstream; so are the failures."""
    Model.gate.set()
    lines = [api.line(f"r{number}") for number in range(20)]
    lines += [api.line("bad", status=422), api.line("text", raw="not JSON")]
    batch = api.run(lines)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 22, "completed": 21, "failed": 1}
    assert batch["usage"]["input_tokens"] == 60
    results = api.results(batch["output_file_id"])
    assert results["r7"]["response"]["body"]["echo"] == [{"role": "user", "content": "Say r7"}]
    assert results["text"]["response"]["body"] == "not JSON"
    assert api.results(batch["error_file_id"])["bad"]["response"]["status_code"] == 422
    assert set(Model.seen) == {("/v1/chat/completions", "Bearer real-key")}
    assert len(Model.seen) == 22
    assert Model.peak <= 4


def test_cancel_stops_sending(server: DevServer, api: Api) -> None:
    """After a cancel, requests under way finish and no more are sent; the rest are in the error file."""
    batch = api.create([api.line(f"r{number}") for number in range(50)])
    api.wait(batch["id"], lambda _: len(Model.seen) == 4)
    assert api.get(batch["id"])["request_counts"] == {"total": 50, "completed": 0, "failed": 0}
    assert api.http.post(f"/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    Model.gate.set()
    seen = api.wait(batch["id"])
    assert seen["status"] == "cancelled"
    assert len(Model.seen) == Model.peak == 4
    assert len(api.results(seen["output_file_id"])) == 4
    rest = api.results(seen["error_file_id"])
    assert len(rest) == 46
    assert {line["error"]["code"] for line in rest.values()} == {"batch_cancelled"}


def test_concurrency_is_of_all_batches_together(api: Api) -> None:
    """Two batches at the same time do not send more requests at a time than one."""
    batches = [api.create([api.line(f"{name}{number}") for number in range(8)]) for name in "ab"]
    api.wait(batches[0]["id"], lambda _: len(Model.seen) == 4)
    api.wait(batches[1]["id"], lambda batch: batch["status"] == "in_progress")
    time.sleep(0.1)
    assert len(Model.seen) == 4
    Model.gate.set()
    assert [api.wait(batch["id"])["request_counts"]["completed"] for batch in batches] == [8, 8]
    assert Model.peak <= 4


def test_progress_is_real(api: Api, clock: LeapingClock) -> None:
    """The batch stays in progress for as long as its requests take."""
    batch = api.create([api.line(f"r{number}") for number in range(5)])
    api.wait(batch["id"], lambda _: len(Model.seen) == 4)
    clock.leapt += 60
    assert api.get(batch["id"])["status"] == "in_progress"
    Model.gate.set()
    assert api.wait(batch["id"])["request_counts"]["completed"] == 5


def test_forced_to_completed_before_it_runs(server: DevServer, api: Api) -> None:
    """Every request is sent, and the batch is completed once they are answered."""
    Model.gate.set()
    server.settings(freeze=True)
    batch = api.create([api.line(f"r{number}") for number in range(9)])
    assert server.force(batch["id"], status="completed")["request_counts"]["completed"] == 9
    assert len(Model.seen) == 9


def test_nobody_there(api: Api, server: DevServer, model: str) -> None:
    """An upstream that does not answer fails its requests, not the batch."""
    upstream = server.service.lifecycle._upstream
    assert upstream is not None
    upstream.url = "http://127.0.0.1:1/v1"
    batch = api.run([api.line()])
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert api.results(batch["error_file_id"])["a"]["error"]["code"] == "upstream_unreachable"


def test_close_while_sending(model: str) -> None:
    """A server can be closed while requests are under way."""
    with DevServer(batch_seconds=0.1, upstream=model, concurrency=2) as running:
        headers = {"authorization": "Bearer k"}
        line = (
            b'{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"model":"m","messages":[]}}\n'
        )
        files = {"file": ("f", b"".join(line % number for number in range(9)))}
        file = httpx.post(
            f"{running.base_url}/files", headers=headers, data={"purpose": "batch"}, files=files
        )
        params = {
            "input_file_id": file.json()["id"],
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        }
        httpx.post(f"{running.base_url}/batches", headers=headers, json=params)
        wait_until(lambda: len(Model.seen) == 2)
        threading.Timer(0.05, Model.gate.set).start()
    assert len(Model.seen) == 2
