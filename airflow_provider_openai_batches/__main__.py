"""
``python -m airflow_provider_openai_batches``: the commands of ``airflow openai-batches`` under another name.

Airflow loads the commands of providers only since version 3.2.
"""

from __future__ import annotations

from argparse import ArgumentParser

from airflow.cli.cli_config import GroupCommand
from airflow.cli.cli_parser import _add_command

from airflow_provider_openai_batches.cli import get_commands


def get_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m airflow_provider_openai_batches")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in get_commands():
        if isinstance(group, GroupCommand):
            for command in group.subcommands:
                _add_command(commands, command)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    args.func(args)


if __name__ == "__main__":
    main()
