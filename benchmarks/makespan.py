"""
How long a job takes, compared with an ideal scheduler that knows all that will happen.

The dev server's clock runs many times faster than real time, and so does that of each job's process: by
default a second is an hour. Prints markdown. ``--speed 1200`` suits a slow or a busy machine: there the CPU
time of a job weighs less against the hours that its batches take. What the other providers do with two of
the cases stands beside ours; ``makespan_beside.py`` says how they are used. ``--only-ours`` leaves them out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from environments import CHECKOUT, dev_server, environment_of, python_of
from makespan_cases import CASES, HOUR, SEED, Case, Task
from makespan_ways import Way, ways_of

from airflow_provider_openai_batches.devserver import DevServerClient
from airflow_provider_openai_batches.devserver.settings import Settings
from airflow_provider_openai_batches.devserver.validation import PassingFailures

READY_WITHIN = 120.0
MOST_RUNS = 10
NEVER = float("inf")


class JobProcess:
    """A job in a process of its own."""

    def __init__(self, way: Way, python: Path, task: Task, home: Path) -> None:
        home.mkdir()
        (home / "task.json").write_text(json.dumps(dataclasses.asdict(task)))
        self._errors = home / "errors.txt"
        self._process = subprocess.Popen(
            way.command(python, home / "task.json"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors.open("w"),
            text=True,
            env=environment_of(home),
        )
        self._reports: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                self._reports.put(json.loads(line))
        self._reports.put(None)

    def report(self, within: float) -> dict[str, Any] | None:
        """
        The next report; None if there is none within these seconds.

        :raises RuntimeError: if the process ended without one.
        """
        try:
            found = self._reports.get(timeout=max(within, 0.01))
        except queue.Empty:
            return None
        if found is None:
            raise RuntimeError(f"A job ended without a report:\n{self._errors.read_text()[-3000:]}")
        return found

    def go(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Outcome(NamedTuple):
    """
    How a case went.

    :param hours: until the end of each job; infinite for one that did not end in time.
    :param answered: how many rows have an answer in the results of the jobs that ended.
    """

    case: Case
    way: Way
    ideal: float
    hours: list[float]
    batches: int
    rejected: int
    answered_twice: int
    answered: int
    errors: list[str]


def ideal(case: Case, speed: float) -> float:
    share = Settings(failing_share=case.share, failing_share_by_number=list(case.fails)).failing_share_of
    statuses = Settings().failing_statuses

    def runs(batch: int, row: int) -> int:
        first = PassingFailures(share(batch + 1), statuses, SEED)
        later = PassingFailures(case.share, statuses, SEED)
        count = 1
        while count < MOST_RUNS and (later if count > 1 else first).quirk(f"row-{row}", count - 1):
            count += 1
        return count

    return case.ideal(runs, speed)


def measure(case: Case, way: Way, options: argparse.Namespace) -> Outcome:
    python = python_of(way.side, options.directory)
    validating = {"validating_seconds": options.validating * 60.0}
    settings = {**validating, **case.settings, "clock_speed": options.speed}
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    with (
        tempfile.TemporaryDirectory() as folder,
        dev_server("--batch-seconds", str(case.again * HOUR), *given) as base_url,
        DevServerClient(base_url) as control,
    ):
        tasks = tasks_of(case, way, options, base_url, folder)
        jobs = [JobProcess(way, python, task, Path(folder) / str(n)) for n, task in enumerate(tasks)]
        ended = run_all(jobs, case.within * HOUR / options.speed)
        spans, twice = control.timeline(), len(control.answers(at_least=2)) + _twice_live(control, case)
    return Outcome(
        case,
        way,
        ideal(case, options.speed),
        [found["seconds"] / HOUR for found in ended],
        len(spans),
        sum(span["rejected"] is not None for span in spans),
        twice,
        sum(found["succeeded"] for found in ended),
        [found["error"] for found in ended if found["error"]],
    )


def _twice_live(control: DevServerClient, case: Case) -> int:
    """Return how many live answers there are to rows that had one."""
    stats = control.stats()
    live = stats["live"]
    before = stats["request_lines_paid"] + live["paid"] - case.rows if live["paid"] else 0
    return max(int(before), int(live["paid"] - live["paid_distinct"]))


def tasks_of(case: Case, way: Way, options: argparse.Namespace, base_url: str, folder: str) -> list[Task]:
    return [
        Task(
            name=f"{case.name}-{number}",
            base_url=base_url,
            folder=f"{folder}/{number}/out",
            speed=options.speed,
            rows=case.rows,
            requests_per_batch=case.requests_per_batch,
            poll_interval=options.poll_interval,
            options={**way.options, **({"answer_by": case.answer_by * HOUR} if case.answer_by else {})},
        )
        for number in range(case.jobs)
    ]


def run_all(jobs: list[JobProcess], within: float) -> list[dict[str, Any]]:
    """Begin all jobs at the same time, and say how each of them ended within these real seconds."""
    try:
        for job in jobs:
            if job.report(READY_WITHIN) is None:
                raise TimeoutError("A job's process was not ready in time.")
        for job in jobs:
            job.go()
        end = time.monotonic() + within
        found = [job.report(end - time.monotonic()) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    late = {"seconds": NEVER, "succeeded": 0, "error": "it did not end in time"}
    return [late if one is None else one for one in found]


# -- the table -----------------------------------------------------------------------------------------------

HEAD = ("", "ideal", "job", "job ÷ ideal", "batches", "rejected", "answered twice", "rows with an answer")


def line_of(outcome: Outcome) -> str:
    """
    The row of a case; of several jobs, the time and the ratio are those of the slowest.

    Jobs that leave rows without an answer have an end, but no ratio: they never did what the ideal does.
    """
    slowest, rows = max(outcome.hours), outcome.case.jobs * outcome.case.rows
    time, ratio = f"not within {outcome.case.within:.0f} h", "never"
    if slowest != NEVER:
        each = f" ({', '.join(f'{hours:.1f}' for hours in sorted(outcome.hours))})"
        time = f"{slowest:.1f} h{each if outcome.case.jobs > 1 else ''}"
        if outcome.answered == rows:
            ratio = f"{slowest / outcome.ideal:.2f}"
    counts = f"{outcome.batches:,}", f"{outcome.rejected:,}", f"{outcome.answered_twice:,}"
    answered = f"{outcome.answered:,} of {rows:,}"
    name = f"`{outcome.case.name}`: {outcome.way.title}"
    return row(name, f"{outcome.ideal:.1f} h", time, ratio, *counts, answered)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def parsed() -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"{', '.join(names)}; by default all of them"
    )
    parser.add_argument(
        "--speed", type=float, default=HOUR, help="of the clock; by default a second is an hour"
    )
    parser.add_argument("--poll-interval", type=float, default=60.0, help="seconds at the service")
    parser.add_argument(
        "--validating", type=float, default=10.0, help="minutes until a batch is rejected, or begun"
    )
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".bench", help="for the environments")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(names):
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def main() -> None:
    options = parsed()
    options.directory.mkdir(parents=True, exist_ok=True)
    print(f"A second is {options.speed / HOUR:.2f} h, polled every {options.poll_interval:.0f} s\n")
    print(row(*HEAD), row("---", *("---:",) * (len(HEAD) - 1)), sep="\n", flush=True)
    for case in CASES:
        if options.cases and case.name not in options.cases:
            continue
        for way in ways_of(case, only_ours=options.only_ours):
            outcome = measure(case, way, options)
            print(line_of(outcome), flush=True)
            for error in outcome.errors:
                print(f"{case.name}, {way.title}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
