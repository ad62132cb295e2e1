"""How all commands print, ask and end."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning

from airflow_provider_openai_batches.cli import tables
from airflow_provider_openai_batches.exceptions import OpenAIBatchesError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

PROBLEM = 1
ERROR = 2
STOPPED = 130
STRUCTURED = ("json", "yaml")


def say(text: str) -> None:
    print(tables.clean(text), file=sys.stderr)  # noqa: T201 - a command prints


def fail(text: str) -> NoReturn:
    say(f"Error: {text}")
    raise SystemExit(ERROR)


def ending(stopped: str) -> Callable[[Callable[[Namespace], int]], Callable[[Namespace], None]]:
    """
    Turn what a command returns or raises into an exit code and a sentence.

    :param stopped: what is said after Ctrl-C.
    """

    def wrap(command: Callable[[Namespace], int]) -> Callable[[Namespace], None]:
        @functools.wraps(command)
        def run(args: Namespace) -> None:
            try:
                code = command(args)
            except (OpenAIBatchesError, OSError) as error:
                fail(str(error))
            except KeyboardInterrupt:
                say(stopped)
                code = STOPPED
            if code:
                raise SystemExit(code)

        wrapped: Callable[[Namespace], None] = suppress_logs_and_warning(run)
        return wrapped

    return wrap


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
