"""
CPU and memory of the store of answers; each step runs in a process of its own.

``python benchmarks/answers.py [ROWS [STORED]]``: so many rows are known by their digests, a tenth of them
equal to others; then so many rows, of which 95 % are in the store, are looked for among so many stored
answers. The default is 1,000,000 rows and 5,000,000 answers, which take 4 GB of disk meanwhile.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_openai_batches.answer_store.digests import RowDigests, digest_of
from airflow_provider_openai_batches.answer_store.store import AnswerStore

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINT = "/v1/chat/completions"
QUESTION = b"Say whether this review is positive, negative or neutral: " + b"It works. " * 34
ANSWER = (
    b'{"id":"chatcmpl-%d","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"%b","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":40,"completion_tokens":20,"total_tokens":60}}'
)
WORDS = b"The review is positive. " * 12
MB = 1 << 20
JOBS = 10  # that wrote the store
LOG = logging.getLogger("answers")


def body(number: int) -> bytes:
    return (
        b'{"model":"gpt-5-mini","max_completion_tokens":20,"messages":[{"role":"user","content":"%d %b"}]}'
        % (
            number,
            QUESTION,
        )
    )


def bodies(rows: int) -> Iterator[bytes]:
    """Every tenth one has come before."""
    for number in range(rows):
        yield body(number if number % 10 else number // 20)


def looked_for(rows: int, stored: int) -> Iterator[bytes]:
    """Of 20, one is not in the store; the others are spread over all that is."""
    step = max(1, stored // rows)
    for number in range(rows):
        yield body(number * step % stored if number % 20 else stored + number)


def peak() -> float:
    """The peak memory of this program in MB; getrusage would also count that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def build(folder: Path, _: int, stored: int) -> dict[str, float]:
    begun = time.process_time()
    for job in range(JOBS):
        with AnswerStore(folder, LOG).writer(
            f"job-{job}", created=job, metadata={"team": "reviews"}
        ) as writer:
            for number in range(job, stored, JOBS):
                writer.add(digest_of(ENDPOINT, body(number)), "gpt-5-mini", ANSWER % (number, WORDS))
    return {"cpu": time.process_time() - begun}


def digests(_: Path, rows: int, __: int) -> dict[str, float]:
    begun = time.process_time()
    for _row in enumerate(bodies(rows)):
        pass
    without, before = time.process_time() - begun, peak()
    known = RowDigests(ENDPOINT)
    add = known.add
    for row, data in enumerate(bodies(rows)):
        add(row, data)
    added = time.process_time() - begun - 2 * without
    held = peak()
    repeats = known.repeats()
    return {
        "added": added,
        "cpu": time.process_time() - begun - 2 * without,
        "held": held - before,
        "grown": peak() - before,
        "repeats": len(repeats) // 2,
    }


def find(folder: Path, rows: int, stored: int) -> dict[str, float]:
    before = peak()
    wanted = RowDigests(ENDPOINT)
    for row, data in enumerate(looked_for(rows, stored)):
        wanted.add(row, data)
    store = AnswerStore(folder, LOG)
    begun, wall = time.process_time(), time.perf_counter()
    found = sum(1 for _ in store.find(wanted))
    return {
        "cpu": time.process_time() - begun,
        "seconds": time.perf_counter() - wall,
        "grown": peak() - before,
        "found": found,
        "answers": store.answers,
    }


STEPS = {"build": build, "digests": digests, "find": find}


def run(step: str, folder: str, rows: int, stored: int) -> dict[str, float]:
    command = [sys.executable, __file__, step, folder, str(rows), str(stored)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in STEPS:
        rows, stored = map(int, arguments[2:])
        print(json.dumps(STEPS[arguments[0]](Path(arguments[1]), rows, stored)))
        return
    rows, stored = (*map(int, arguments), *(1_000_000, 5_000_000)[len(arguments) :])
    with tempfile.TemporaryDirectory() as folder:
        print(f"digests of {rows:,} rows")
        known = run("digests", folder, rows, stored)
        per_row = {name: value / rows for name, value in known.items()}
        print(f"  CPU     {per_row['cpu'] * 1e6:.2f} µs a row, {per_row['added'] * 1e6:.2f} of it to add it")
        print(
            f"  memory  {per_row['held'] * MB:.0f} bytes a row, {per_row['grown'] * MB:.0f} with the repeats"
        )
        written = run("build", folder, rows, stored)
        print(f"{stored:,} answers written\n  CPU     {written['cpu'] / stored * 1e6:.2f} µs an answer")
        found = run("find", folder, rows, stored)
        print(f"{rows:,} rows looked for, {found['found']:,.0f} found in {found['seconds']:.1f} s")
        each = found["cpu"] / max(1, found["found"])
        print(f"  CPU     {found['cpu'] / stored * 1e6:.2f} µs a stored answer, {each * 1e6:.2f} one found")
        print(f"  memory  {found['grown']:.0f} MB, {found['grown'] * MB / stored:.0f} bytes a stored answer")


if __name__ == "__main__":
    main(sys.argv[1:])
