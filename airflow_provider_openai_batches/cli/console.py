"""How all commands print, ask and end."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from airflow.cli.simple_table import AirflowConsole

from airflow_provider_openai_batches.cli import tables

PROBLEM = 1
ERROR = 2
STOPPED = 130
STRUCTURED = ("json", "yaml")


def say(text: str) -> None:
    print(tables.clean(text), file=sys.stderr)  # noqa: T201 - a command prints


def fail(text: str) -> NoReturn:
    say(f"Error: {text}")
    raise SystemExit(ERROR)


def print_data(data: Any, output: str) -> None:
    """Print data as JSON or YAML."""
    console = AirflowConsole()
    console.print_as_json(data) if output == "json" else console.print_as_yaml(data)


def confirm(question: str, *, unasked: str, refused: str) -> None:
    """
    Ask before something that cannot be taken back.

    :param unasked: the error where there is no terminal to ask on; ``refused`` is the one after a no.
    """
    if not sys.stdin.isatty():
        fail(f"{unasked}, but there is no terminal to ask on. Add --yes to do it.")
    answer = input(f"{question} [y/N] ")
    if answer.strip().lower() not in {"y", "yes"}:
        fail(refused)
