"""
CPU seconds and memory growth of the data side of a job; each step runs in a process of its own.

Run ``python benchmarks/job_modules.py [ROWS ...]``; the default is 10,000, 100,000 and 1,000,000 rows.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.inference.data.followup import write_followup
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, read_ids
from airflow_provider_openai_batches.inference.data.manifest import MANIFEST_FILE, Manifest
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.storage import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINT = "/v1/chat/completions"
TEMPLATE = {
    "messages": [
        {"role": "system", "content": "Say whether the review is positive, negative or neutral."},
        {"role": "user", "content": "{product}: {review}"},
    ],
    "max_completion_tokens": 20,
}
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 20,
    "total_tokens": 60,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            "key": f"order-{number:09d}",
            "product": f"product {number % 500}",
            "review": "It works. " * 12,
        }


def body(content: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": USAGE}


def results(folder: Path) -> None:
    """Write a shuffled output file for each shard; every hundredth request is answered with 503."""
    job = Job.load(folder)
    assert job is not None
    for shard in job.shards:
        lines = []
        for row, custom_id in read_ids(folder, shard):
            status = 200 if row % 100 or shard.round else 503
            response = {
                "status_code": status,
                "request_id": "r",
                "body": body(f"The answer to {custom_id}. " * 8),
            }
            lines.append(
                msgspec.json.encode({"id": "b", "custom_id": custom_id, "response": response, "error": None})
            )
        random.Random(shard.index).shuffle(lines)  # noqa: S311 - an order, not a secret
        (folder / f"output-{shard.index}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def indexed(folder: Path) -> ResultIndex:
    job = Job.load(folder)
    assert job is not None
    index = ResultIndex(job, folder)
    for shard in job.shards:
        index.add(shard, [folder / f"output-{shard.index}.jsonl"])
    return index


def step_shards(folder: Path, count: int) -> None:
    requests = requests_from(
        rows(count), endpoint=ENDPOINT, body=TEMPLATE, model="m", id_column="key", keep_columns=["product"]
    )
    write_shards(requests, folder, endpoint=ENDPOINT)


def step_followup(folder: Path, _: int) -> None:
    write_followup(indexed(folder))


def step_merge(folder: Path, count: int) -> None:
    index = indexed(folder)
    merged = merge(index, folder / "out")
    assert merged.counts["succeeded"] == count
    manifest = Manifest(
        digest=index.job.digest,
        endpoint=ENDPOINT,
        output_format="jsonl",
        rows=count,
        batches=[],
        **msgspec.structs.asdict(merged),
    )
    write_json(folder / "out" / MANIFEST_FILE, manifest)


STEPS = {"shards": step_shards, "follow-up": step_followup, "merge": step_merge}


def peak() -> float:
    """The peak memory of this program in MB; getrusage would also count that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(step: str, folder: Path, count: int) -> dict[str, float]:
    before, begun = peak(), time.process_time()
    STEPS[step](folder, count)
    return {"cpu": time.process_time() - begun, "grown": peak() - before}


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in STEPS:
        print(json.dumps(measure(arguments[0], Path(arguments[1]), int(arguments[2]))))
        return
    print(f"{'rows':>10} {'step':>10} {'CPU s':>8} {'µs/row':>8} {'memory +MB':>11}")
    for count in map(int, arguments or ["10000", "100000", "1000000"]):
        with tempfile.TemporaryDirectory() as name:
            for step in STEPS:
                command = [sys.executable, __file__, step, name, str(count)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                figures = json.loads(done.stdout)
                cpu = figures["cpu"]
                print(
                    f"{count:>10,} {step:>10} {cpu:>8.2f} {cpu / count * 1e6:>8.1f} {figures['grown']:>11.1f}"
                )
                results(Path(name))


if __name__ == "__main__":
    main(sys.argv[1:])
