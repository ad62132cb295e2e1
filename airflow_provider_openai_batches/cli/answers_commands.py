"""What the commands for a store of answers do; they need no connection to a service."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.cli.simple_table import AirflowConsole

from airflow_provider_openai_batches.answer_store import upkeep
from airflow_provider_openai_batches.cli import tables
from airflow_provider_openai_batches.cli.console import (
    PROBLEM,
    STRUCTURED,
    confirm,
    ending,
    fail,
    print_data,
    say,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

# What people read in a table, where the name alone says too little.
_LABELS = {
    "before": "segments before",
    "after": "segments now",
    "dropped": "doubles dropped",
    "abandoned": "files of dead writers deleted",
    "broken": "broken segments",
}


_ending = ending("Stopped. What was not deleted by now is still there; run the command again to go on.")


@_ending
def stat(args: Namespace) -> int:
    """``airflow openai-batches answers stat``."""
    found = upkeep.stat(args.uri)
    if not found.segments and not found.broken:
        say(f"There are no answers in {args.uri}.")
    _show(found, args.output)
    return _name_broken(found.broken)


@_ending
def compact(args: Namespace) -> int:
    """``airflow openai-batches answers compact``."""
    done = upkeep.compact(args.uri)
    _show(done, args.output)
    return _name_broken(done.broken)


@_ending
def forget(args: Namespace) -> int:
    """``airflow openai-batches answers forget``."""
    work = _forgetting(args)
    if not args.yes:
        _ask(work(only_count=True), args.uri)
    done = work()
    _show(done, args.output)
    code = _name_broken(done.broken)
    if done.broken and not args.broken:
        say("What you want forgotten may be in there too. Delete what is broken with --broken.")
    return code


def _ask(planned: upkeep.Forgotten, uri: str) -> None:
    if planned.segments:
        what = f"{_counted(planned.answers, 'answer')} in {_counted(planned.segments, 'segment')}"
        confirm(
            f"Delete {what} of {uri}? Jobs that need them will ask and pay again.",
            unasked=f"{what} would be deleted",
            refused="Nothing was deleted.",
        )


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _forgetting(args: Namespace) -> Callable[..., upkeep.Forgotten]:
    given = (args.older_than, args.model, args.metadata)
    if not args.broken:
        if all(value is None for value in given):
            fail("Say which answers are to be forgotten: --older-than, --model, --metadata or --broken.")
        before = None if args.older_than is None else time.time() - args.older_than
        criteria = upkeep.Criteria(before=before, model=args.model, metadata=args.metadata)
        return functools.partial(upkeep.forget, args.uri, criteria)
    if any(value is not None for value in given):
        fail("--broken deletes what nobody can read, so it goes with no other choice of answers.")
    return functools.partial(upkeep.forget_broken, args.uri)


def _show(result: upkeep.StoreStat | upkeep.Compaction | upkeep.Forgotten, output: str) -> None:
    data: dict[str, Any] = msgspec.structs.asdict(result)
    if output in STRUCTURED:
        print_data(data, output)
        return
    AirflowConsole().print_as(
        [{"property": tables.text(name), "value": tables.text(value)} for name, value in _lines(data)], output
    )


def _lines(data: dict[str, Any]) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = []
    for name, value in data.items():
        if name == "models":
            lines += [(f"answers of {model or 'no model'}", f"{count:,}") for model, count in value.items()]
        elif name in {"oldest", "newest"}:
            lines.append((name, tables.when(None if value is None else int(value))))
        else:
            number = len(value) if isinstance(value, dict) else value
            lines.append((_LABELS.get(name, name), f"{number:,}"))
    return lines


def _name_broken(broken: dict[str, str]) -> int:
    for name, reason in broken.items():
        say(f"Segment {name} is broken: {reason}.")
    return PROBLEM if broken else 0
