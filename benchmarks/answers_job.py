"""
CPU and memory of a job of which 95 % are in a store of answers, beside the same job without a store.

``python benchmarks/answers_job.py [ROWS [STORED]]``; the default is 200,000 rows and five times as many
stored answers. Each step runs in a process of its own: ``ask`` goes from the rows to the request files that
are sent, ``land`` from the downloaded result files to the parts. Uploads, waits and downloads are left out on
both sides.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from job_modules import ENDPOINT, TEMPLATE, body, peak

from airflow_provider_openai_batches.answer_store.digests import RowDigests, digest_of
from airflow_provider_openai_batches.answer_store.store import AnswerStore
from airflow_provider_openai_batches.idempotency.submit import BatchSpec
from airflow_provider_openai_batches.inference.answers import SharedAnswers
from airflow_provider_openai_batches.inference.data.followup import write_followup
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, read_ids
from airflow_provider_openai_batches.inference.data.merge import merge
from airflow_provider_openai_batches.inference.data.requests import requests_from
from airflow_provider_openai_batches.inference.data.shards import write_shards
from airflow_provider_openai_batches.inference.data.stored import StoredAnswers, add_stored
from airflow_provider_openai_batches.inference.settings import Settings
from airflow_provider_openai_batches.inference.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.requests import Request

NEW = 20  # one row of so many is not in the store
LOG = logging.getLogger("answers")
FOUND = "found.json"
ANSWER = "The review is positive. " * 8


def rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"product": f"product {number}", "review": "It works. " * 12}


def requests(count: int) -> Iterator[Request]:
    return requests_from(rows(count), endpoint=ENDPOINT, body=TEMPLATE, model="m")


def place_of(folder: Path) -> Workspace:
    place = Workspace(folder / "out", "benchmark")
    place.open("benchmark-" + "0" * 20)
    return place


def shared(folder: Path, place: Workspace) -> SharedAnswers:
    settings = Settings(spec=BatchSpec(endpoint=ENDPOINT), answers_uri=folder / "answers")
    return SharedAnswers(settings, place, LOG)


def fill(folder: Path, count: int, stored: int) -> None:
    """Write the store: most rows of the job, and others, as ten jobs would have done."""
    encode, answer = msgspec.json.Encoder().encode, msgspec.json.encode(body(ANSWER))
    asked, store = requests(count), AnswerStore(folder / "answers", LOG)
    for number in range(10):
        with store.writer(f"job-{number}", created=1.0 + number, metadata={}) as writer:
            for place in range(number * stored // 10, (number + 1) * stored // 10):
                request = next(asked, None) if place % (stored // count) == 0 else None
                if request is None:
                    writer.add(hashlib.sha256(b"%d" % place).digest()[:16], "m", answer)
                elif request.row_number % NEW:
                    writer.add(digest_of(ENDPOINT, encode(request.body)), "m", answer)


def answer_all(folder: Path) -> None:
    """Write the result file of each request file that is sent."""
    place = place_of(folder)
    job = Job.load(place.local)
    assert job is not None
    sent = [shard for shard in job.shards if shard.round or not (place.local / FOUND).exists()]
    for shard in sent:
        with (place.local / f"output-{shard.index}.jsonl").open("wb") as file:
            for _, custom_id in read_ids(place.local, shard):
                response = {
                    "status_code": 200,
                    "request_id": "r",
                    "body": body("The review is positive. " * 8),
                }
                line = {"id": "b", "custom_id": custom_id, "response": response, "error": None}
                file.write(msgspec.json.encode(line) + b"\n")


def ask(folder: Path, count: int, *, has_store: bool) -> None:
    place = Workspace(folder / "out", "benchmark")
    digests = RowDigests(ENDPOINT) if has_store else None
    job = write_shards(requests(count), place.begin(), endpoint=ENDPOINT, digests=digests)
    place.keep(job, "0" * 64)
    if digests is None:
        return
    found = shared(folder, place).look_up(job, digests, time.time())
    del digests
    assert found.rows == count - count // NEW, found
    (place.local / FOUND).write_bytes(msgspec.json.encode(found))
    index = ResultIndex(job, place.local)
    for shard in job.shards:
        index.add(shard, [], counts=False)
    add_stored(index, found)
    after = write_followup(index)
    assert sum(shard.requests for shard in after.shards if shard.round) == count // NEW


def land(folder: Path, count: int, *, has_store: bool) -> None:
    place = place_of(folder)
    job = Job.load(place.local)
    assert job is not None
    index = ResultIndex(job, place.local)
    for shard in job.shards:
        output = place.local / f"output-{shard.index}.jsonl"
        index.add(shard, [output] if output.exists() else [])
    if has_store:
        add_stored(index, msgspec.json.decode((place.local / FOUND).read_bytes(), type=StoredAnswers))
    reusable = bytearray(count) if has_store else None
    merged = merge(index, place.output, has_source=has_store, reusable=reusable)
    assert merged.counts["succeeded"] == count
    if reusable is not None:
        shared(folder, place).keep(index, reusable, "task", "digest", time.time())


STEPS = {"ask": ask, "land": land}


def measure(step: str, folder: Path, count: int, *, has_store: bool) -> dict[str, float]:
    before, begun = peak(), time.process_time()
    STEPS[step](folder, count, has_store=has_store)
    return {"cpu": time.process_time() - begun, "grown": peak() - before}


def run(*arguments: Any) -> dict[str, float]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "step", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout or "{}")
    return found


def step(name: str, folder: Path, count: int, more: int) -> None:
    if name == "fill":
        fill(folder, count, more)
    elif name == "answer":
        answer_all(folder)
    else:
        print(json.dumps(measure(name, folder, count, has_store=bool(more))))


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] == "step":
        step(arguments[1], Path(arguments[2]), int(arguments[3]), int(arguments[4]))
        return
    count = int(arguments[0]) if arguments else 200_000
    stored = int(arguments[1]) if arguments[1:] else 5 * count
    print(f"{'rows':>10} {'':>16} {'step':>6} {'CPU s':>8} {'µs/row':>8} {'memory +MB':>11}")
    for has_store in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            if has_store:
                run("fill", folder, count, stored)
            for name in STEPS:
                figures = run(name, folder, count, has_store)
                side = f"{stored:,} stored" if has_store else "no store"
                cpu, grown = figures["cpu"], figures["grown"]
                print(
                    f"{count:>10,} {side:>16} {name:>6} {cpu:>8.2f} {cpu / count * 1e6:>8.1f} {grown:>11.1f}"
                )
                run("answer", folder, count, has_store)


if __name__ == "__main__":
    main(sys.argv[1:])
