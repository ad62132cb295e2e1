"""
How many requests a round takes when several triggerers share the waits of one connection.

Each triggerer is a process that runs our triggers, with no word to the others. Prints markdown, and exits
with 1 if a round took more than ``--limit`` requests. Takes some minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from contextlib import ExitStack
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

from environments import OURS
from waits import PORTION, ROUND_WITHIN, Running, Server, served

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL = 20.0
ROUNDS = 5
SETTLES = 2  # rounds that are not counted


class Measured(NamedTuple):
    """Requests of all triggerers together: in the first round, on average in a later one, and at most."""

    first: int
    lists: float
    retrieves: float
    most: int


def shares_of(ids: list[str], triggerers: int) -> Iterator[tuple[str, list[list[str]]]]:
    """Ways in which triggerers come to share waits."""
    portions = [ids[begin : begin + PORTION] for begin in range(0, len(ids), PORTION)]
    in_portions = [list(chain.from_iterable(portions[one::triggerers])) for one in range(triggerers)]
    yield f"portions of {PORTION} in turn, as Airflow hands them out", in_portions
    yield "one wait in turn", [ids[one::triggerers] for one in range(triggerers)]
    mixed = random.Random(1).sample(ids, len(ids))  # noqa: S311 - it must repeat, not be secret
    yield "at random, in any order", [mixed[one::triggerers] for one in range(triggerers)]


def measure(server: Server, shares: list[list[str]]) -> Measured:
    before = sum(server.lists_and_retrieves())
    with ExitStack() as stack:
        for one in [stack.enter_context(triggerer(server, share)) for share in shares]:
            one.report("round", ROUND_WITHIN)
        first = sum(server.lists_and_retrieves()) - before
        time.sleep(INTERVAL * SETTLES)
        seen = [server.lists_and_retrieves()]
        for _ in range(ROUNDS):
            time.sleep(INTERVAL)
            seen.append(server.lists_and_retrieves())
    lists, retrieves = ((seen[-1][kind] - seen[0][kind]) / ROUNDS for kind in (0, 1))
    return Measured(first, lists, retrieves, max(sum(after) - sum(one) for one, after in pairwise(seen)))


def triggerer(server: Server, share: list[str]) -> Running:
    task = {"base_url": server.base_url, "batch_ids": share, "poll_interval": INTERVAL, "portion": PORTION}
    return Running(sys.executable, side=OURS.name, **task)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waits", type=int, default=1_000)
    parser.add_argument("--triggerers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=22, help="requests a round, on average")
    options = parser.parse_args()
    print(f"| {options.waits:,} waits, {options.triggerers} triggerers | requests, first round | ", end="")
    print("lists a round | retrieves a round | requests of any round, at most |\n| --- |" + " ---: |" * 4)
    is_good = True
    with served() as server:
        for name, shares in shares_of(server.running(options.waits), options.triggerers):
            one = measure(server, shares)
            print(
                f"| {name} | {one.first} | {one.lists:.1f} | {one.retrieves:.1f} | {one.most} |", flush=True
            )
            is_good = is_good and one.lists + one.retrieves <= options.limit
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
