"""A plain client of the Batch API, and clocks for the server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = "/v1/chat/completions"
TERMINAL = {"completed", "failed", "expired", "cancelled"}
WAIT_SECONDS = 20.0


class Clock:
    """The wall clock of a server. It starts with ``now``, stands still, and is moved by a test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class LeapingClock:
    """The real time, plus the seconds that a test has leapt over."""

    def __init__(self) -> None:
        self.leapt = 0.0

    def __call__(self) -> float:
        return time.time() + self.leapt


def as_object(answer: httpx.Response) -> dict[str, Any]:
    value = answer.json()
    assert isinstance(value, dict)
    return value


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


class Api:
    """Calls of the Batch API with a key, and the usual things done with them."""

    def __init__(self, base_url: str, key: str = "key") -> None:
        self.http = httpx.Client(
            base_url=base_url,
            headers={"authorization": f"Bearer {key}"},
            timeout=20,
            trust_env=False,
            verify=False,  # noqa: S501 - this is plain HTTP, and loading certificates takes long
        )

    @staticmethod
    def line(custom_id: str = "a", url: str = CHAT, quirk: str = "", **body: Any) -> dict[str, Any]:
        if url == CHAT:
            body.setdefault("messages", [{"role": "user", "content": f"Say {custom_id}"}])
        if quirk:
            body["metadata"] = {"devserver": quirk}
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m", **body}}

    def upload(self, content: bytes | list[Any], **fields: str) -> dict[str, Any]:
        if isinstance(content, list):
            content = b"".join(json.dumps(line).encode() + b"\n" for line in content)
        answer = self.http.post(
            "/files", data={"purpose": "batch", **fields}, files={"file": ("in.jsonl", content)}
        )
        assert answer.status_code == 200, answer.text
        return as_object(answer)

    def create(self, content: bytes | list[Any], endpoint: str = CHAT, **params: Any) -> dict[str, Any]:
        answer = self.http.post("/batches", json=self.params(self.upload(content)["id"], endpoint, **params))
        assert answer.status_code == 200, answer.text
        return as_object(answer)

    @staticmethod
    def params(file_id: str, endpoint: str = CHAT, **more: Any) -> dict[str, Any]:
        return {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}

    def get(self, batch_id: str) -> dict[str, Any]:
        return as_object(self.http.get(f"/batches/{batch_id}").raise_for_status())

    def wait(
        self,
        batch_id: str,
        until: Callable[[dict[str, Any]], bool] = lambda batch: batch["status"] in TERMINAL,
    ) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while not until(batch := self.get(batch_id)):
            assert time.monotonic() < deadline, batch
            time.sleep(0.01)
        return batch

    def run(self, content: bytes | list[Any], endpoint: str = CHAT, **params: Any) -> dict[str, Any]:
        return self.wait(self.create(content, endpoint, **params)["id"])

    def results(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        if file_id is None:
            return {}
        text = self.http.get(f"/files/{file_id}/content").raise_for_status().text
        lines = [json.loads(line) for line in text.splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        return {line["custom_id"]: line for line in lines}
