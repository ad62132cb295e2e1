"""
What a job costs its worker to build and upload requests and to land results, against LLMBatchOperator.

Each step runs in a process of its own, against one local server in another. Prints markdown with the
medians of several runs. ``--only-ours`` leaves the other provider out, ``--rows`` sets the sizes of the jobs,
and ``--only-jobs`` runs those alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from environments import CHECKOUT, COMMON_AI, OURS, Side, dev_server, environment_of, python_of

from airflow_provider_openai_batches.devserver import DevServerClient

SIDE_PROGRAM = Path(__file__).with_name("landing_side.py")
BATCHES = 20
OVER_WITHIN = 900.0
PLACES = {"": "a directory", "benchstore://": "a store"}  # see landing_side.py


class Step:
    """One step of one side, in a process of its own."""

    def __init__(self, python: Path, home: Path, **task: Any) -> None:
        (home / "task.json").write_text(json.dumps(task))
        self._errors = (home / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [python, "-W", "ignore", SIDE_PROGRAM, home / "task.json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**environment_of(home), "TMPDIR": str(home)},
        )

    def report(self) -> dict[str, Any]:
        """
        The next report.

        :raises RuntimeError: if the process ended without one.
        """
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        self._errors.seek(0)
        raise RuntimeError(f"The step ended without a report:\n{self._errors.read()[-3000:]}")

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.wait(60)
        self._errors.close()


def wait_until_over(control: DevServerClient) -> list[str]:
    """The ids of all batches, once all are completed."""
    end = time.monotonic() + OVER_WITHIN
    while time.monotonic() < end:
        batches = control.batches()
        if batches and all(batch["status"] == "completed" for batch in batches):
            return [batch["id"] for batch in batches]
        time.sleep(0.2)
    raise TimeoutError("The batches did not end in time.")


def one_batch(
    side: Side, python: Path, control: DevServerClient, count: int, *, structured: bool
) -> dict[str, dict[str, float]]:
    """Submit and land one batch."""
    with tempfile.TemporaryDirectory() as name:
        home, folder = Path(name), str(Path(name) / "out")
        control.reset()
        given = {"side": side.name, "count": count, "folder": folder, "base_url": control.base_url}
        given["structured"] = structured
        step = Step(python, home, step="submit", **given)
        submitted = step.report()
        step.end()
        (batch_id,) = wait_until_over(control)
        step = Step(python, home, step="land", batch_id=batch_id, kwargs=submitted["kwargs"], **given)
        landed = step.report()
        step.end()
    return {"submit": submitted, "land": landed}


class Peak(threading.Thread):
    """The most bytes that were in a directory at one time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.bytes, self._directory, self._over = 0, directory, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.05):
            self.bytes = max(self.bytes, sum(map(size_of, self._directory.rglob("*"))))

    def end(self) -> int:
        self._over.set()
        self.join()
        return self.bytes


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # it is gone already
        return 0


def whole_job(control: DevServerClient, count: int, scheme: str) -> dict[str, float]:
    """Run the whole task, and let its batches end whenever it waits; its output is a directory or a store."""
    name, output = tempfile.mkdtemp(), tempfile.mkdtemp()
    peak, kept = Peak(Path(name)), Peak(Path(output))
    try:
        control.reset()
        given = {"side": OURS.name, "count": count, "batches": BATCHES, "base_url": control.base_url}
        step = Step(Path(sys.executable), Path(name), step="whole", folder=f"{scheme}{output}", **given)
        peak.start()
        kept.start()
        while "waits" in (report := step.report()):
            wait_until_over(control)
            step.go_on()
        step.end()
        report["scratch"], report["output"] = peak.end() / 1e6, kept.end() / 1e6
    finally:
        shutil.rmtree(name)
        shutil.rmtree(output)
    return report


def medians(runs: list[dict[str, dict[str, float]]], step: str) -> tuple[float, float]:
    return (
        statistics.median(run[step]["cpu"] for run in runs),
        statistics.median(run[step]["memory"] for run in runs),
    )


def compared(title: str, ours: list[Any], theirs: list[Any]) -> str:
    lines = [
        f"| {title} | {OURS.title} | {COMMON_AI.title} | ratio |",
        "| --- | --- | --- | --- |",
    ]
    names = {"submit": "built and uploaded", "land": "results landed"}
    for step, words in names.items():
        own = medians(ours, step)
        other = medians(theirs, step) if theirs else (float("nan"), float("nan"))
        for what, unit, mine, its in zip(("CPU", "memory"), ("s", "MB"), own, other, strict=True):
            lines.append(f"| {words}: {what} | {mine:.2f} {unit} | {its:.2f} {unit} | {mine / its:.3f} |")
    return "\n".join(lines)


def alone(results: dict[tuple[int, str], dict[str, float]]) -> str:
    lines = [
        f"| rows, in {BATCHES} batches | output | CPU | per row | memory | temporary files | in output_uri |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (count, place), found in results.items():
        each = found["cpu"] / count * 1e6
        sizes = " | ".join(f"{found[name]:.0f} MB" for name in ("memory", "scratch", "output"))
        lines.append(f"| {count:,} | {place} | {found['cpu']:.1f} s | {each:.0f} µs | {sizes} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".bench", help="for the environments")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--only-jobs", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    options.directory.mkdir(parents=True, exist_ok=True)
    sides = [OURS] if options.only_ours else [OURS, COMMON_AI]
    pythons = {side: python_of(side, options.directory) for side in sides}
    with dev_server("--batch-seconds", "1") as base_url:
        control = DevServerClient(base_url)
        kinds = () if options.only_jobs else ((False, "texts"), (True, "structured output"))
        for structured, words in kinds:
            runs: dict[Side, list[Any]] = {OURS: [], COMMON_AI: []}
            for _ in range(options.runs):
                for side in sides:
                    found = one_batch(side, pythons[side], control, options.requests, structured=structured)
                    print(f"{side.title}: {found}", file=sys.stderr)
                    runs[side].append(found)
            what = f"{options.requests:,} requests in one batch, {words}"
            print(f"\n{compared(what, runs[OURS], runs[COMMON_AI])}\n", flush=True)
        results = {}
        for count in options.rows:
            for scheme, place in PLACES.items():
                results[count, place] = whole_job(control, count, scheme)
                print(f"{count:,} rows, {place}: {results[count, place]}", file=sys.stderr)
        print(alone(results))


if __name__ == "__main__":
    main()
