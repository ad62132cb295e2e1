"""
How much waiting costs, compared with the two other providers of OpenAI batches for Airflow.

There is one server, which takes 100 ms for each answer. Each provider has an environment of its own, and a
process that runs its trigger class as a triggerer does. Prints markdown. Measuring the other providers takes
some minutes; ``--only-ours`` leaves them out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import httpx
from environments import CHECKOUT, COMMON_AI, OFFICIAL, OURS, Side, dev_server, environment_of, python_of

from airflow_provider_openai_batches.devserver import DevServerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATENCY = 0.1
# Seconds. A round of the other providers takes minutes; this is the limit for any round.
ROUND_WITHIN = 400.0
NO_ROUND = 3_600.0
DELAY_WAITS = 200
DELAY_ENDS = 20
DELAY_INTERVAL = 10.0
DELAY_WITHIN = 120.0
IMPORTS = 5
# A triggerer claims this many triggers at a time.
PORTION = 50
SIDE_PROGRAM = Path(__file__).with_name("waits_side.py")


class Round(NamedTuple):
    """Until each wait was polled once: wall and CPU seconds, MB, the largest lag in seconds, requests."""

    seconds: float
    cpu: float
    memory: float
    lag: float
    requests: int
    next_requests: float | None = None


class Server:
    """The server that all sides use."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.control = DevServerClient(base_url)

    def running(self, count: int) -> list[str]:
        """Make a new account with this many running batches; their ids, in the order of creation."""
        self.control.reset()
        self.control.settings(latency=0.0)
        self.control.seed(count, status="in_progress", spread_seconds=600.0)
        ids: list[str] = []
        with httpx.Client(
            base_url=self.base_url, headers={"Authorization": "Bearer k"}, trust_env=False
        ) as http:
            page: dict[str, Any] = {"has_more": True, "last_id": None}
            while page["has_more"]:
                after = {"after": page["last_id"]} if page["last_id"] else {}
                page = http.get("/batches", params={"limit": 100, **after}).raise_for_status().json()
                ids += [batch["id"] for batch in page["data"]]
        self.control.settings(latency=LATENCY)
        return ids[::-1]

    def requests(self) -> int:
        return sum(self.lists_and_retrieves())

    def lists_and_retrieves(self) -> tuple[int, int]:
        counts = self.control.stats()["requests"]
        return int(counts.get("list_batches", 0)), int(counts.get("retrieve_batch", 0))


@contextlib.contextmanager
def served() -> Iterator[Server]:
    with dev_server("--latency", str(LATENCY)) as base_url:
        yield Server(base_url)


class Running:
    """A side's process, and what it reports."""

    def __init__(self, python: Path | str, **task: Any) -> None:
        home = tempfile.mkdtemp(prefix="bench-airflow-")
        self._task = Path(home) / "task.json"
        self._task.write_text(json.dumps(task))
        self.process = subprocess.Popen(
            [python, SIDE_PROGRAM, self._task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment_of(home),
        )
        self._reports: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                self._reports.put(json.loads(line))
        self._reports.put(None)

    def report(self, name: str, within: float) -> dict[str, Any]:
        """The next report with this name."""
        end = time.monotonic() + within
        while True:
            found = self._reports.get(timeout=max(end - time.monotonic(), 0.01))
            if found is None:
                raise RuntimeError(f"{self.process.args!r} ended early")
            if name in found:
                return found

    def round_is_over(self) -> None:
        """Tell the process that the server has seen a request for each wait."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def measure_round(
    server: Server,
    side: Side,
    python: Path,
    ids: list[str],
    interval: float = NO_ROUND,
    *,
    portion: int | None = None,
) -> Round:
    """
    Measure the first round and, if the interval is short, count the requests of the next rounds.

    :param portion: how many waits begin at a time; None means all of them at once.
    """
    before = server.requests()
    task = {"base_url": server.base_url, "batch_ids": ids, "poll_interval": interval, "portion": portion}
    with Running(python, side=side.name, **task) as running:
        running.report("import", 120)
        if side is not OURS:
            wait_until(lambda: server.requests() - before >= len(ids), ROUND_WITHIN)
            running.round_is_over()
        found = running.report("round", ROUND_WITHIN)["round"]
        asked = server.requests() - before
        if interval == NO_ROUND:
            return Round(**found, requests=asked)
        rounds = 2
        time.sleep(interval)
        settled = server.requests()
        time.sleep(interval * rounds)
        return Round(**found, requests=asked, next_requests=(server.requests() - settled) / rounds)


def measure_delay(server: Server, side: Side, python: Path) -> float:
    """The longest time from the end of a batch at the server to the trigger's event, or infinity."""
    ids = server.running(DELAY_WAITS)
    rng = random.Random(1)  # noqa: S311 - it must repeat, not be secret
    ended: dict[str, float] = {}
    with Running(
        python, side=side.name, base_url=server.base_url, batch_ids=ids, poll_interval=DELAY_INTERVAL
    ) as running:
        running.report("import", 120)
        wait_until(lambda: server.requests() >= (1 if side is OURS else len(ids)), ROUND_WITHIN)
        for batch_id in rng.sample(ids, DELAY_ENDS):
            time.sleep(rng.uniform(0, DELAY_INTERVAL / 10))
            server.control.force(batch_id, status="completed")
            ended[batch_id] = time.time()
        delays: list[float] = []
        end = time.monotonic() + DELAY_WITHIN
        while len(delays) < DELAY_ENDS:
            try:
                event = running.report("event", end - time.monotonic())
            except queue.Empty:
                return float("inf")
            delays.append(event["at"] - ended[event["event"]])
    return max(delays)


def measure_import(side: Side, python: Path) -> float:
    """The fastest of several imports, in seconds."""
    found = []
    for _ in range(IMPORTS):
        with Running(python, side=side.name, base_url="", batch_ids=[], poll_interval=0) as running:
            found.append(float(running.report("import", 120)["import"]))
    return min(found)


def wait_until(condition: Callable[[], bool], within: float) -> None:
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {within:.0f} s")
        time.sleep(0.05)


# -- tables --------------------------------------------------------------------------------------------------


def compared(
    count: int, sides: list[Side], rounds: list[Round], delays: list[float], imports: list[float]
) -> str:
    rows: list[tuple[str, str, list[float]]] = [
        ("until each was polled once", "{:.2f} s", [one.seconds for one in rounds]),
        ("CPU", "{:.2f} s", [one.cpu for one in rounds]),
        ("memory", "+{:.0f} MB", [one.memory for one in rounds]),
        ("requests a round", "{:,.0f}", [float(one.requests) for one in rounds]),
        ("largest lag of the event loop", "{:.0f} ms", [one.lag * 1e3 for one in rounds]),
        (f"end of a batch to event, at {DELAY_INTERVAL:.0f} s ({DELAY_WAITS} waits)", "{:.1f} s", delays),
        ("import after Airflow's own", "{:.0f} ms", [seconds * 1e3 for seconds in imports]),
    ]
    lines = [
        f"| {count:,} waits | " + " | ".join(side.title for side in sides) + " |",
        "| --- |" + " ---: |" * len(sides),
    ]
    for name, form, values in rows:
        cells = [form.format(values[0])] + [beside(form, value, values[0]) for value in values[1:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def beside(form: str, value: float, ours: float) -> str:
    if value == float("inf"):
        return f"not within {DELAY_WITHIN:.0f} s"
    return f"{form.format(value)} ({value / max(ours, 1e-9):,.0f} x)"


def alone(measured: dict[str, Round]) -> str:
    lines = [
        "| this provider | polled once | CPU | memory | lag | requests, first round | then |",
        "| --- |" + " ---: |" * 6,
    ]
    for name, one in measured.items():
        then = "" if one.next_requests is None else f"{one.next_requests:,.0f}"
        cells = [
            f"{one.seconds:.2f} s",
            f"{one.cpu:.2f} s",
            f"+{one.memory:.0f} MB",
            f"{one.lag * 1e3:.0f} ms",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {one.requests:,} | {then} |")
    return "\n".join(lines)


def crowded(server: Server, count: int, others: int) -> Iterator[tuple[str, list[str]]]:
    """Accounts in which many batches of others are newer than, between or older than the awaited ones."""
    ids = server.running(count)
    server.control.seed(others)
    yield f"{count:,} waits, {others:,} newer batches of others", ids
    ids = server.running(count)
    server.control.seed(others, spread_seconds=600.0)
    yield f"{count:,} waits, {others:,} others between them", ids
    server.control.reset()
    ids = server.running(count)
    server.control.seed(others, spread_seconds=600.0 * others)
    yield f"{count:,} waits, {others:,} older batches of others", ids


def measure_ours(server: Server, options: argparse.Namespace) -> dict[str, Round]:
    python = python_of(OURS, options.directory)
    measured = {}
    for count in (options.waits, options.many):
        ids = server.running(count)
        measured[f"{count:,} waits"] = measure_round(server, OURS, python, ids, 20.0)
    name = f"{options.waits:,} waits, newest first in portions of {PORTION}"
    newest_first = server.running(options.waits)[::-1]
    measured[name] = measure_round(server, OURS, python, newest_first, 40.0, portion=PORTION)
    for name, ids in crowded(server, options.waits, options.others):
        measured[name] = measure_round(server, OURS, python, ids, 40.0)
    return measured


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".bench", help="for the environments")
    parser.add_argument("--waits", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=10_000, help="ours alone")
    parser.add_argument("--others", type=int, default=100_000, help="batches of others in the account")
    parser.add_argument("--only-ours", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    options.directory.mkdir(parents=True, exist_ok=True)
    sides = [OURS] if options.only_ours else [OURS, OFFICIAL, COMMON_AI]
    pythons = [python_of(side, options.directory) for side in sides]
    rounds, delays, imports = [], [], []
    with served() as server:
        for side, python in zip(sides, pythons, strict=True):
            print(f"{side.title} …", file=sys.stderr)
            imports.append(measure_import(side, python))
            rounds.append(measure_round(server, side, python, server.running(options.waits)))
            delays.append(measure_delay(server, side, python))
            print(f"  {rounds[-1]}, {delays[-1]:.1f} s to an event", file=sys.stderr)
        print(f"\n{compared(options.waits, sides, rounds, delays, imports)}\n", flush=True)
        print(alone(measure_ours(server, options)))


if __name__ == "__main__":
    main()
