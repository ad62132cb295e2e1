"""Commands as Airflow runs them: parsed by Airflow's own parser, in this process."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``airflow openai-batches …``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.cli.cli_parser import get_parser
        from airflow.utils.db import initdb

        initdb()
        parser = get_parser()

    def command(*arguments: str) -> Done:
        capsys.readouterr()
        try:
            args = parser.parse_args(["openai-batches", *arguments])
            args.func(args)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return command
