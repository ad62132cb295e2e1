"""
``airflow openai-batches``: the names and arguments of the commands.

Airflow imports this for every command that it runs, so the code of the commands is imported only when needed.
"""

from __future__ import annotations

import argparse
import re
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

if TYPE_CHECKING:
    from collections.abc import Callable

# Airflow's own class has no types.
_arg: Callable[..., Arg] = Arg
COMMANDS = "airflow_provider_openai_batches.cli.commands"
ANSWERS_COMMANDS = "airflow_provider_openai_batches.cli.answers_commands"
EXIT_CODES = (
    "exit codes: 0 all is well; 1 a batch failed, expired or was cancelled, or some of its requests failed; "
    "2 the command could not do its work; 130 stopped with Ctrl-C"
)

ANSWERS_EXIT_CODES = (
    "exit codes: 0 all is well; 1 a segment is broken, and was left alone; "
    "2 the command could not do its work; 130 stopped with Ctrl-C"
)
_AGE = re.compile(r"([0-9]{1,6})([hdw])")
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


def _command(name: str, function: str, help_text: str, *args: Arg) -> ActionCommand:
    return ActionCommand(
        name=name,
        help=help_text,
        func=lazy_load_command(f"{COMMANDS}.{function}"),
        args=(*args, CONN_ID, ARG_OUTPUT, ARG_VERBOSE),
        epilog=EXIT_CODES,
    )
