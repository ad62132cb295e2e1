"""Commands as Airflow runs them: parsed by Airflow's own parser, in this process."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP = "openai-batches"


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``airflow openai-batches …``, or this package's own program where Airflow takes no commands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.cli import cli_parser
        from airflow.utils.db import initdb

        from airflow_provider_openai_batches import __main__ as own

        initdb()
        is_airflows = GROUP in cli_parser.ALL_COMMANDS_DICT
        parser = cli_parser.get_parser() if is_airflows else own.get_parser()

    def command(*arguments: str) -> Done:
        capsys.readouterr()
        try:
            args = parser.parse_args([GROUP, *arguments] if is_airflows else arguments)
            args.func(args)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return command
