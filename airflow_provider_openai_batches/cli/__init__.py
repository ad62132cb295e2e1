"""
``airflow openai-batches``: the names and arguments of the commands.

Airflow imports this for every command that it runs, so the code of the commands is imported only when needed.
"""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ARG_YES,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

from airflow_provider_openai_batches.api.config import DEFAULT_CONN_ID
from airflow_provider_openai_batches.api.endpoints import DEFAULT_ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Callable

# Airflow's own class has no types.
_arg: Callable[..., Arg] = Arg
COMMANDS = "airflow_provider_openai_batches.cli.commands"
ANSWERS_COMMANDS = "airflow_provider_openai_batches.cli.answers_commands"
COSTS = "airflow_provider_openai_batches.cli.cost_commands"
EXIT_CODES = (
    "exit codes: 0 all is well; 1 a batch failed, expired or was cancelled, or some of its requests failed; "
    "2 the command could not do its work; 130 stopped with Ctrl-C"
)

ANSWERS_EXIT_CODES = (
    "exit codes: 0 all is well; 1 a segment is broken, and was left alone; "
    "2 the command could not do its work; 130 stopped with Ctrl-C"
)
_AGE = re.compile(r"([0-9]{1,9})([hdw])")
_SECONDS = {"h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _age(text: str) -> float:
    found = _AGE.fullmatch(text)
    if found is None or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no age such as 36h, 90d or 4w")
    return int(found[1]) * _SECONDS[found[2]]


def _pair(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not name or not is_there:
        raise argparse.ArgumentTypeError(f"{text} is no NAME=VALUE")
    return name, value


def _since(text: str) -> float:
    """Return the Unix seconds of a time, or of one so long ago."""
    if _AGE.fullmatch(text):
        return max(0.0, time.time() - _age(text))
    try:
        moment = datetime.fromisoformat(text)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text} is no length of time such as 36h, 7d or 4w, and no date or time such as 2026-11-26"
        ) from None


CONN_ID = _arg(
    ("--conn-id",), help=f"Airflow connection (default: {DEFAULT_CONN_ID})", default=DEFAULT_CONN_ID
)
BATCH_ID = _arg(("batch_id",), help="Id of a batch", metavar="ID")
BATCH_IDS = _arg(("batch_ids",), help="Ids of batches", metavar="ID", nargs="+")
BATCH_IDS_OR_NONE = _arg(
    ("batch_ids",), help="Ids of batches (default: all that are running)", metavar="ID", nargs="*"
)
LIMIT = _arg(("--limit",), help="At most this many batches (default: 20)", type=_count, default=20)
STATUS = _arg(("--status",), help="Only batches with this status", default=None)
DAG_ID = _arg(("--dag-id",), help="Only batches of this DAG", default=None)
RUN_ID = _arg(("--run-id",), help="Only batches of this run", default=None)
INTERVAL = _arg(("--interval",), help="Seconds between requests (default: 10)", type=_positive, default=10.0)
URI = _arg(("uri",), help="Directory or URI of the store, as in answers_uri", metavar="URI")
OLDER_THAN = _arg(
    ("--older-than",),
    help="Only answers that are older, such as 36h, 90d or 4w",
    metavar="AGE",
    type=_age,
    default=None,
)
MODEL = _arg(("--model",), help="Only answers of this model", default=None)
METADATA = _arg(
    ("--metadata",),
    help="Only answers of jobs with this metadata",
    metavar="NAME=VALUE",
    type=_pair,
    default=None,
)
BROKEN = _arg(
    ("--broken",),
    help="Instead: what cannot be read. Each line of the store is read to find it",
    action="store_true",
    default=False,
)
DIRECTORY = _arg(("directory",), help="Where to put the files; created if missing", metavar="DIRECTORY")

SINCE = _arg(
    ("--since",),
    help="Batches created since then: 36h, 7d, 4w, or a date or time, in UTC if it has no zone (default: 7d)",
    type=_since,
    default="7d",
)
BY = _arg(
    ("--by",),
    help="dag, task, run, model, day (UTC), status, or a key of the batches' metadata; several with commas, "
    "or by giving it several times (default: dag)",
    action="append",
)
GROUPS = _arg(("--limit",), help="At most this many groups (default: 50)", type=_count, default=50)
FILE = _arg(("file",), help="A file of requests: JSON lines, or what input_uri takes", metavar="FILE")
REQUESTS_MODEL = _arg(("--model",), help="The model of requests that name none", default=None)
ENDPOINT = _arg(("--endpoint",), help=f"Endpoint (default: {DEFAULT_ENDPOINT})", default=DEFAULT_ENDPOINT)
OUTPUT_TOKENS = _arg(
    ("--output-tokens",), help="Output tokens of each request (default: the most it allows)", type=_count
)


def get_commands() -> list[CLICommand]:
    return [
        GroupCommand(
            name="openai-batches",
            help="List, watch and cancel batches of the OpenAI Batch API",
            subcommands=(
                _command("list", "list_batches", "List batches, newest first", LIMIT, STATUS, DAG_ID, RUN_ID),
                _command("show", "show_batch", "Show all properties of a batch", BATCH_ID),
                _command("watch", "watch_batches", "Watch until all are over", BATCH_IDS_OR_NONE, INTERVAL),
                _command("cancel", "cancel_batches", "Cancel batches", BATCH_IDS, ARG_YES),
                _command("results", "download_results", "Download a batch's files", BATCH_ID, DIRECTORY),
                _answers_commands(),
                _command("cost", "show_costs", "Sum up what batches cost", SINCE, BY, GROUPS, module=COSTS),
                _command(
                    "estimate",
                    "estimate_file",
                    "Estimate what requests are going to cost",
                    *(FILE, REQUESTS_MODEL, ENDPOINT, OUTPUT_TOKENS),
                    module=COSTS,
                ),
            ),
        )
    ]


def _answers_commands() -> GroupCommand:
    return GroupCommand(
        name="answers",
        help="Look after a store of answers (answers_uri)",
        subcommands=(
            _answers_command("stat", "Say what is in it"),
            _answers_command("compact", "Put small segments together and drop answers that have a newer one"),
            _answers_command(
                "forget",
                "Delete the answers that all given options fit",
                OLDER_THAN,
                MODEL,
                METADATA,
                BROKEN,
                ARG_YES,
            ),
        ),
    )


def _answers_command(name: str, help_text: str, *args: Arg) -> ActionCommand:
    return ActionCommand(
        name=name,
        help=help_text,
        func=lazy_load_command(f"{ANSWERS_COMMANDS}.{name}"),
        args=(URI, *args, ARG_OUTPUT, ARG_VERBOSE),
        epilog=ANSWERS_EXIT_CODES,
    )


def _command(name: str, function: str, help_text: str, *args: Arg, module: str = COMMANDS) -> ActionCommand:
    return ActionCommand(
        name=name,
        help=help_text,
        func=lazy_load_command(f"{module}.{function}"),
        args=(*args, CONN_ID, ARG_OUTPUT, ARG_VERBOSE),
        epilog=EXIT_CODES,
    )
