"""What a connection to a database is set up for, whatever the server or its user would have it be."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from databasekit import only
from resultskit import answers, write

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed
from airflow_provider_openai_batches.sql.dialect import TableName
from airflow_provider_openai_batches.sql.dialects import MySQL, PostgreSQL
from airflow_provider_openai_batches.sql.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transfers.conftest import Database

TEXTS = ("žluť", "€ 5", "naïve", "漢字", "plain")
LATIN_TEXTS = ("naïve", "plain")


class Refused(Exception):
    """What a driver raises."""


class Connection:
    """A connection that refuses some statements."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.ran, self.rollbacks = refused, [], 0
        self.is_away = False

    ran: list[str]

    def cursor(self) -> Connection:
        return self

    def execute(self, sql: str) -> None:
        if any(word in sql for word in self.refused):
            raise Refused(sql)
        self.ran.append(sql)

    def rollback(self) -> None:
        if self.is_away:
            raise Refused("gone")
        self.rollbacks += 1

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass


class Psycopg2(Connection):
    def set_client_encoding(self, name: str) -> None:
        self.ran.append(f"encoding {name}")


def test_the_drivers_are_told_of_utf8() -> None:
    """Each in its own way: psycopg2 does not notice a statement, and psycopg has no method."""
    for connection, told in ((Connection(), "SET client_encoding TO 'UTF8'"), (Psycopg2(), "encoding UTF8")):
        PostgreSQL().prepare(connection)
        assert connection.ran[0] == told
        assert len(connection.ran) == 4


@pytest.mark.parametrize("dialect", [PostgreSQL, MySQL])
def test_a_setting_that_the_server_lacks_is_left_out(dialect: Any) -> None:
    """Each by itself."""
    connection = Connection("tcp_keepalives_idle", "tcp_keepalives_count", "wait_timeout")
    dialect().prepare(connection)
    assert connection.rollbacks == {PostgreSQL: 2, MySQL: 1}[dialect]
    assert any("tcp_keepalives_interval" in sql for sql in connection.ran) == (dialect is PostgreSQL)


def test_a_connection_that_breaks_off_as_it_is_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry follows."""
    connection = Connection("keepalives")
    connection.is_away = True
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": ":memory:"}))
    monkeypatch.setattr("airflow.providers.sqlite.hooks.sqlite.SqliteHook.get_conn", lambda _: connection)
    monkeypatch.setattr("airflow_provider_openai_batches.sql.session.dialect_of", lambda _: PostgreSQL())
    with pytest.raises(LoadFailed, match="'warehouse' cannot be reached: gone"):
        Session("warehouse")


@pytest.mark.parametrize(("keys", "length"), [(1, 512), (2, 380), (3, 253)])
def test_a_key_of_several_texts_fits(keys: int, length: int) -> None:
    """Into the 3,072 bytes that a key of MySQL may have."""
    names = [f"k{number}" for number in range(keys)]
    made = MySQL().create(TableName(None, "labels"), [(name, "text") for name in names], names)
    assert made.count(f"VARCHAR({length})") == keys
    assert "VARCHAR(512)" in made or keys > 1


@pytest.fixture
def postgres(database: Database) -> Iterator[Database]:
    yield database
    database.run("ALTER ROLE postgres RESET client_encoding")


def in_encoding(postgres: Database, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the connection lead to a database with another encoding."""
    assert postgres.server is not None
    name = f"in_{encoding.lower()}"
    with postgres.connected() as connection:
        connection.autocommit = True
        with suppress(Exception):  # the test before has made it
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({**postgres.server.connection(), "schema": name}))


def stored(table: str = "labels") -> list[Any]:
    """What is in the table, as a connection with another setting sees it."""
    with Session("warehouse") as session:
        return [row[0] for row in session.run(f"SELECT label FROM {table} ORDER BY custom_id")]  # noqa: S608


@only("postgres", "psycopg2")
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_role_with_another_client_encoding(
    postgres: Database, tmp_path: Path, encoding: str, mode: str
) -> None:
    """As old applications need it: by COPY, UTF-8 would be read as something else."""
    postgres.run(f"ALTER ROLE postgres SET client_encoding = '{encoding}'")
    write(answers(tmp_path, *TEXTS), mode=mode)
    write(answers(tmp_path, *TEXTS, name="again"), mode="upsert" if mode == "upsert" else "replace")
    assert stored() == list(TEXTS)
    postgres.run("ALTER ROLE postgres RESET client_encoding")
    assert [row[1] for row in postgres.table()] == list(TEXTS)


@only("postgres", "psycopg2")
def test_a_client_encoding_of_the_environment(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    write(answers(tmp_path, *TEXTS))
    assert stored() == list(TEXTS)


@only("postgres", "psycopg2")
def test_a_database_without_an_encoding(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Psycopg would read its text as bytes."""
    in_encoding(postgres, "SQL_ASCII", monkeypatch)
    for _ in range(2):
        write(answers(tmp_path, *TEXTS, name=f"out{_}"))
    assert stored() == list(TEXTS)


@only("postgres", "psycopg2")
def test_a_database_that_lacks_letters(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that it refuses is named, and no retry follows."""
    in_encoding(postgres, "LATIN1", monkeypatch)
    write(answers(tmp_path, *LATIN_TEXTS))
    assert stored() == list(LATIN_TEXTS)
    with pytest.raises(InvalidInputError, match=r"'r[01]'.*LATIN1.*Nothing was written"):
        write(answers(tmp_path, *TEXTS, name="all"))
    assert stored() == list(LATIN_TEXTS)
