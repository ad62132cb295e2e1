"""A batch service without a network: request files in, unordered result files out, with faults on demand."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.data.shards import write_shards

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.inference.data.job import Job, Limits, Shard

CHAT = "/v1/chat/completions"
FAULTS = ("expired", "cancelled", "busy", "limited", "invalid", "lost")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def prepare(
    work: Any,
    rows: Any,
    limits: Limits | None = None,
    endpoint: str = CHAT,
    max_requests: int | None = None,
    **options: Any,
) -> Job:
    """Turn rows into shards, with a model unless one is given."""
    requests = requests_from(rows, endpoint=endpoint, **{"model": "m", **options})
    return write_shards(requests, work, endpoint=endpoint, limits=limits, max_requests=max_requests)


def chat(text: Any, **message: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": "stop",
    }
    return {"object": "chat.completion", "choices": [choice], "usage": USAGE}


def answered(custom_id: str, body: Any, status: int = 200) -> bytes:
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "b", "custom_id": custom_id, "response": response, "error": None}).encode()


def failed(custom_id: str, code: str) -> bytes:
    error = {"code": code, "message": f"It was {code}."}
    return json.dumps({"id": "b", "custom_id": custom_id, "response": None, "error": error}).encode()


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


class Service:
    """
    Answers each request with its own prompt.

    :param faults: (round, custom_id) → one of FAULTS; everything else succeeds.
    """

    def __init__(self, work: Path, faults: dict[tuple[int, str], str] | None = None, seed: int = 0) -> None:
        self.work, self.faults, self.random = work, faults or {}, random.Random(seed)  # noqa: S311 - an order, not a secret
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()

    def run(self, shard: Shard) -> list[Path]:
        lines = []
        for line in (self.work / shard.file).read_bytes().splitlines():
            request = json.loads(line)
            lines += self.result(shard.round, request["custom_id"], request["body"])
        self.random.shuffle(lines)
        cut = self.random.randrange(len(lines) + 1)
        halves = (lines[:cut], lines[cut:])
        return [
            write_lines(self.work / f"{name}-{shard.index}.jsonl", half)
            for name, half in zip(("output", "error"), halves, strict=True)
        ]

    def result(self, round_number: int, custom_id: str, body: dict[str, Any]) -> list[bytes]:
        self.asked[custom_id] += 1
        fault = self.faults.get((round_number, custom_id))
        if fault == "lost":
            return []
        if fault in {"expired", "cancelled"}:
            return [failed(custom_id, f"batch_{fault}")]
        if fault is not None:
            status = {"busy": 503, "limited": 429, "invalid": 400}[fault]
            return [answered(custom_id, {"error": {"code": fault, "message": "no"}}, status)]
        self.paid[custom_id] += 1
        return [answered(custom_id, chat(body["messages"][0]["content"]))]

    def index(self, job: Job, **options: Any) -> ResultIndex:
        """Run every shard of the job and note the results."""
        index = ResultIndex(job, self.work, **options)
        for shard in job.shards:
            index.add(shard, self.run(shard))
        return index


def noted(work: Path, job: Job, lines: list[bytes], **options: Any) -> ResultIndex:
    """An index of a job of one shard whose only result file has these lines."""
    index = ResultIndex(job, work, **options)
    index.add(job.shards[0], [write_lines(work / "output.jsonl", lines)])
    return index


def read_parts(directory: Path) -> list[dict[str, Any]]:
    parts = sorted(directory.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]
