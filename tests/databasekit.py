"""Which databases a test is about: parameters of the fixture ``database``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

DATABASES = ("sqlite", "postgres", "psycopg2", "mysql", "duckdb")
WITH_A_SERVER = ("postgres", "psycopg2", "mysql")


def kinds(names: Iterable[str]) -> list[Any]:
    """Parameters of the fixture ``database``. SQLite is everywhere; make test-databases has the others."""
    return [name if name == "sqlite" else pytest.param(name, marks=pytest.mark.databases) for name in names]


def only(*names: str) -> pytest.MarkDecorator:
    """A test of these databases alone."""
    return pytest.mark.parametrize("database", kinds(names), indirect=True)
