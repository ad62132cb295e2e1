"""A database, as an Airflow connection: SQLite everywhere, others where their servers are installed."""

from __future__ import annotations

import contextlib
import importlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from databasekit import DATABASES, kinds
from sqlservers import MariaDBServer, PostgresServer, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONN_ID = "warehouse"
_MODULES = {
    "postgres": ("psycopg", "airflow.providers.postgres.hooks.postgres"),
    "psycopg2": ("psycopg2", "airflow.providers.postgres.hooks.postgres"),
    "mysql": ("MySQLdb", "airflow.providers.mysql.hooks.mysql"),
    "duckdb": ("duckdb", "airflow.providers.duckdb.hooks.duckdb"),
}
_SERVERS: dict[str, type[Server]] = {
    "postgres": PostgresServer,
    "psycopg2": PostgresServer,
    "mysql": MariaDBServer,
}


class Database:
    """An empty database behind the connection :data:`CONN_ID`."""

    def __init__(self, kind: str, server: Server | None, folder: Path) -> None:
        self.kind, self.server = kind, server
        self.file = folder / "warehouse.db"

    def connection(self) -> dict[str, Any]:
        if self.server is not None:
            return self.server.connection()
        return {"conn_type": self.kind, "host": str(self.file)}

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        with contextlib.closing(self._connect()) as connection:
            yield connection

    def _connect(self) -> Any:
        if self.kind == "sqlite":
            return sqlite3.connect(self.file)
        if self.kind == "duckdb":
            return importlib.import_module("duckdb").connect(str(self.file))
        assert self.server is not None
        if self.kind == "mysql":
            driver: Any = importlib.import_module("MySQLdb")
            return driver.connect(
                host="127.0.0.1", port=self.server.port, user="root", db="warehouse", charset="utf8mb4"
            )
        where = f"host=127.0.0.1 port={self.server.port} user=postgres dbname=postgres"
        return importlib.import_module("psycopg").connect(where)

    def run(self, *statements: str) -> None:
        with self.connected() as connection:
            for statement in statements:
                connection.cursor().execute(self.native(statement))
            connection.commit()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connected() as connection:
            cursor = connection.cursor()
            cursor.execute(self.native(sql))
            return [tuple(row) for row in cursor.fetchall()]

    def native(self, sql: str) -> str:
        """Standard SQL in the form of the database: MySQL needs a length for text in a key."""
        return sql.replace('"', "`").replace("TEXT", "VARCHAR(100)") if self.kind == "mysql" else sql

    def table(self, name: str = "labels") -> list[tuple[Any, ...]]:
        """All rows of a table."""
        return sorted(self.rows(f"SELECT * FROM {name}"), key=repr)  # noqa: S608 - a name of a test's

    def exists(self, name: str = "labels") -> bool:
        try:
            self.rows(f"SELECT 1 FROM {name}")  # noqa: S608 - as above
        except Exception:  # noqa: BLE001 - of any driver
            return False
        return True

    def empty(self) -> None:
        """Remove all tables, once the test is over."""
        if self.kind in {"postgres", "psycopg2"}:
            self.run(
                "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "DROP SCHEMA IF EXISTS mart CASCADE"
            )
        elif self.kind == "mysql":
            self.run("DROP DATABASE warehouse", "CREATE DATABASE warehouse CHARACTER SET utf8mb4")
            self.run("DROP DATABASE IF EXISTS mart")

    def break_off(self) -> None:
        """End all connections but this one's."""
        if self.kind == "mysql":
            ids = self.rows(
                "SELECT id FROM information_schema.processlist WHERE user = 'root' AND id <> CONNECTION_ID()"
            )
            for (number,) in ids:
                self.run(f"KILL {number}")
        else:
            self.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )


def _need(kind: str) -> None:
    """Fail where something is not installed."""
    try:
        for module in _MODULES.get(kind, ()):
            importlib.import_module(module)
        lacking = _SERVERS[kind].missing() if kind in _SERVERS else []
    except ImportError as error:
        lacking = [str(error.name)]
    assert not lacking, f"{kind} needs {', '.join(lacking)}: see make test-databases"


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[type[Server], Server]]:
    """The servers that run; each is started when it is first needed."""
    with contextlib.ExitStack() as stack:
        running: dict[type[Server], Server] = {}
        yield running
        for server in running.values():
            stack.push(server.__exit__)


@pytest.fixture(params=kinds(DATABASES))
def database(
    request: pytest.FixtureRequest,
    servers: dict[type[Server], Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Database]:
    kind = request.param
    _need(kind)
    server = None
    if kind in _SERVERS:
        server = servers.get(_SERVERS[kind])
        if server is None:
            server = servers[_SERVERS[kind]] = _SERVERS[kind]().__enter__()
    if kind == "psycopg2":
        monkeypatch.setattr("airflow.providers.postgres.hooks.postgres.USE_PSYCOPG3", False)
    found = Database(kind, server, tmp_path)
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(found.connection()))
    try:
        yield found
    finally:
        found.empty()
