"""The databases that are known: PostgreSQL, MySQL and MariaDB, SQLite, DuckDB."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_openai_batches.sql.dialect import Dialect, TableColumn, literal
from airflow_provider_openai_batches.sql.kinds import Bounds, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_openai_batches.sql.dialect import Run, TableName

_SMALL, _MEDIUM, _INT, _BIG = 1 << 15, 1 << 23, 1 << 31, 1 << 63


def _escaped(text: str) -> str:
    return literal(text.replace("\\", "\\\\"))


def _grouped(rows: Sequence[tuple[Any, ...]]) -> list[frozenset[str]]:
    groups: dict[Any, set[str]] = {}
    for index, name in rows:
        groups.setdefault(index, set()).add(name)
    return [frozenset(names) for names in groups.values()]


def _run(connection: Any, sql: str) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql)
    connection.commit()


def _run_if_known(connection: Any, sql: str) -> None:
    """Run a statement that not every server with this protocol knows; without it, all works as well."""
    try:
        _run(connection, sql)
    except Exception:  # noqa: BLE001 - of any driver
        connection.rollback()


class _OnConflict(Dialect):
    mark = '"'
    knows_uniques = True

    def merge(
        self, table: TableName, stage: str, columns: Sequence[str], key: Sequence[str]
    ) -> Sequence[str]:
        sets = ", ".join(
            f"{self.quoted(name)} = excluded.{self.quoted(name)}" for name in columns if name not in key
        )
        # WHERE TRUE: SQLite would take ON for the beginning of a join.
        return [
            f"INSERT INTO {self.table(table)} ({self.joined(columns)}) SELECT {self.joined(columns)} "
            f"FROM {self.quoted(stage)} WHERE TRUE ON CONFLICT ({self.joined(key)}) DO "
            + (f"UPDATE SET {sets}" if sets else "NOTHING")
        ]


class PostgreSQL(_OnConflict):
    """PostgreSQL, and databases with its protocol."""

    can_create = True
    ignores_case = False
    types: ClassVar[dict[Kind, str]] = {
        "text": "TEXT",
        "integer": "BIGINT",
        "number": "DOUBLE PRECISION",
        "boolean": "BOOLEAN",
        "json": "JSONB",
        "date": "DATE",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
    }
    key_text = "TEXT"
    _kinds: ClassVar[dict[str, Kind]] = {
        **dict.fromkeys(("text", "varchar", "bpchar", "name", "citext"), "text"),
        **dict.fromkeys(("int2", "int4", "int8"), "integer"),
        **dict.fromkeys(("float4", "float8", "numeric"), "number"),
        **dict.fromkeys(("json", "jsonb", "vector", "halfvec"), "json"),  # pgvector reads a list of numbers
        **dict.fromkeys(("timestamp", "timestamptz"), "timestamp"),
        "bool": "boolean",
        "date": "date",
    }
    _ranges: ClassVar[dict[str, int]] = {"int2": _SMALL, "int4": _INT, "int8": _BIG}

    def prepare(self, connection: Any) -> None:
        """
        Send and read text as UTF-8, whatever the server, the role or the environment says.

        And let the server end the transaction of a worker that was cut off in two minutes, not two hours.
        """
        if hasattr(connection, "set_client_encoding"):
            connection.set_client_encoding("UTF8")  # psycopg2 does not notice that a statement sets it
        else:
            _run(connection, "SET client_encoding TO 'UTF8'")
        for name, value in (("idle", 60), ("interval", 10), ("count", 6)):
            _run_if_known(connection, f"SET tcp_keepalives_{name} = {value}")

    def columns(self, run: Run, table: TableName) -> list[TableColumn]:
        rows = run(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.atttypmod, "
            "a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', "
            "a.attgenerated <> '' OR a.attidentity = 'a' "
            "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
            f"WHERE a.attrelid = to_regclass('{literal(self.table(table))}') "
            "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
        )
        return [
            TableColumn(
                name, shown, self._kinds.get(kind, "other"), self._bounds(kind, size), required, computed
            )
            for name, shown, kind, size, required, computed in rows
        ]

    def _bounds(self, kind: str, size: int) -> Bounds:
        if kind in self._ranges:
            return Bounds(-self._ranges[kind], self._ranges[kind] - 1)
        return Bounds(length=size - 4 if kind in {"varchar", "bpchar"} and size > 0 else None)

    def uniques(self, run: Run, table: TableName) -> list[frozenset[str]]:
        rows = run(
            "SELECT i.indexrelid::bigint, a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = "
            "i.indrelid AND a.attnum = ANY (i.indkey) AND array_position(i.indkey::int2[], a.attnum) < "
            f"i.indnkeyatts WHERE i.indrelid = to_regclass('{literal(self.table(table))}') AND i.indisunique "
            "AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indimmediate"
        )
        return _grouped(rows)

    def lock(self, table: TableName) -> str:
        return f"LOCK TABLE {self.table(table)} IN SHARE ROW EXCLUSIVE MODE"

    def lock_for_creation(self) -> str:
        return "SELECT pg_advisory_xact_lock(hashtext('airflow_provider_openai_batches'))"


class SQLite(_OnConflict):
    begin = "BEGIN IMMEDIATE"
    can_create = True
    longest_name = 1_000
    has_savepoints = True
    has_booleans = False
    types: ClassVar[dict[Kind, str]] = {
        "text": "TEXT",
        "integer": "INTEGER",
        "number": "REAL",
        "boolean": "BOOLEAN",
        "json": "TEXT",
        "date": "TEXT",
        "timestamp": "TEXT",
    }
    key_text = "TEXT"

    def columns(self, run: Run, table: TableName) -> list[TableColumn]:
        rows = run(f"PRAGMA {self._schema(table)}table_xinfo({self.quoted(table.name)})")
        keys = sum(bool(row[5]) for row in rows)
        return [
            TableColumn(
                name,
                kind,
                self._kind(kind),
                is_required=bool(required)
                and default is None
                and not (key and keys == 1 and "INT" in kind.upper()),
                is_computed=hidden != 0,
            )
            for _, name, kind, required, default, key, hidden in rows
        ]

    def _schema(self, table: TableName) -> str:
        return f"{self.quoted(table.schema)}." if table.schema else ""

    def _kind(self, declared: str) -> Kind:
        """By https://www.sqlite.org/datatype3.html#determination_of_column_affinity, and by other names."""
        words: list[tuple[str, Kind]] = [
            ("BOOL", "boolean"),
            ("INT", "integer"),
            ("CHAR", "text"),
            ("CLOB", "text"),
            ("TEXT", "text"),
            ("REAL", "number"),
            ("FLOA", "number"),
            ("DOUB", "number"),
            ("DEC", "number"),
            ("NUM", "number"),
            ("JSON", "json"),
        ]
        return next((kind for word, kind in words if word in declared.upper()), "text")

    def uniques(self, run: Run, table: TableName) -> list[frozenset[str]]:
        schema = self._schema(table)
        keys = [row[1] for row in run(f"PRAGMA {schema}table_info({self.quoted(table.name)})") if row[5]]
        found = [frozenset(keys)] if keys else []
        for row in run(f"PRAGMA {schema}index_list({self.quoted(table.name)})"):
            if row[2] and not row[4]:
                names = [part[2] for part in run(f"PRAGMA {schema}index_info({self.quoted(row[1])})")]
                found += [frozenset(names)] if None not in names else []
        return found


class MySQL(Dialect):
    """MySQL and MariaDB, in tables with transactions."""

    mark = "`"
    longest_name = 64
    can_create = True
    has_transactional_ddl = False
    has_savepoints = True
    has_zones = False
    knows_uniques = True
    upserts_by_any_key = True
    types: ClassVar[dict[Kind, str]] = {
        "text": "LONGTEXT",
        "integer": "BIGINT",
        "number": "DOUBLE",
        "boolean": "BOOLEAN",
        "json": "JSON",
        "date": "DATE",
        "timestamp": "DATETIME(6)",
    }
    key_text = "VARCHAR({length}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    create_table = "CREATE TABLE IF NOT EXISTS"
    # Of another type, a date that is none, no JSON, and a CHECK that fails (MySQL's, MariaDB's).
    codes_of_values = frozenset({1366, 1292, 3140, 3819, 4025})
    drop_stage = "DROP TEMPORARY TABLE"
    _kinds: ClassVar[dict[str, Kind]] = {
        **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext"), "text"),
        **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint"), "integer"),
        **dict.fromkeys(("float", "double", "decimal"), "number"),
        **dict.fromkeys(("datetime", "timestamp"), "timestamp"),
        "json": "json",
        "date": "date",
    }
    _ranges: ClassVar[dict[str, int]] = {
        "tinyint": 1 << 7,
        "smallint": _SMALL,
        "mediumint": _MEDIUM,
        "int": _INT,
        "bigint": _BIG,
    }

    def prepare(self, connection: Any) -> None:
        if hasattr(connection, "set_character_set"):
            connection.set_character_set("utf8mb4")
        _run_if_known(connection, "SET SESSION wait_timeout = 600")  # as PostgreSQL's

    def _where(self, table: TableName) -> str:
        schema = "DATABASE()" if table.schema is None else f"'{_escaped(table.schema)}'"
        return f"table_schema = {schema} AND table_name = '{_escaped(table.name)}'"

    def columns(self, run: Run, table: TableName) -> list[TableColumn]:
        rows = run(
            "SELECT column_name, column_type, data_type, is_nullable, column_default, extra, "
            "character_maximum_length FROM information_schema.columns "
            f"WHERE {self._where(table)} ORDER BY ordinal_position"
        )
        return [self._found(row) for row in rows]

    def _found(self, row: tuple[Any, ...]) -> TableColumn:
        name, shown, kind, nullable, default, extra, length = row
        shown, extra = str(shown), extra.lower()
        is_flag = shown.startswith("tinyint(1)")
        has_value = default is not None or "auto_increment" in extra or "default_generated" in extra
        is_computed = "generated" in extra and "default_generated" not in extra
        bounds = Bounds(length=length)
        if size := self._ranges.get(kind):
            bounds = Bounds(0, 2 * size - 1) if "unsigned" in shown else Bounds(-size, size - 1)
        found: Kind = "boolean" if is_flag else self._kinds.get(kind, "other")
        return TableColumn(name, shown, found, bounds, nullable == "NO" and not has_value, is_computed)

    def uniques(self, run: Run, table: TableName) -> list[frozenset[str]]:
        rows = run(
            "SELECT index_name, column_name, sub_part FROM information_schema.statistics "
            f"WHERE {self._where(table)} AND non_unique = 0"
        )
        partial = {index for index, name, part in rows if part is not None or name is None}
        return _grouped([(index, name) for index, name, _ in rows if index not in partial])

    def refusal(self, run: Run, table: TableName) -> str | None:
        rows = run(
            "SELECT t.engine FROM information_schema.tables t LEFT JOIN information_schema.engines e "
            f"ON e.engine = t.engine WHERE {self._where(table)} AND COALESCE(e.transactions, 'NO') <> 'YES'"
        )
        if not rows:
            return None
        return (
            f"its engine, {rows[0][0]}, has no transactions, so a load that breaks off would stay half done"
        )

    def create(self, table: TableName, columns: Sequence[tuple[str, Kind]], key: Sequence[str]) -> str:
        return f"{super().create(table, columns, key)} ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4"

    def merge(
        self, table: TableName, stage: str, columns: Sequence[str], key: Sequence[str]
    ) -> Sequence[str]:
        # A key has to be set to itself where there is nothing else to set.
        names = [name for name in columns if name not in key] or list(key)
        sets = ", ".join(f"{self.quoted(name)} = VALUES({self.quoted(name)})" for name in names)
        insert = f"INSERT INTO {self.table(table)} ({self.joined(columns)}) SELECT {self.joined(columns)}"
        return [f"{insert} FROM {self.quoted(stage)} ON DUPLICATE KEY UPDATE {sets}"]


class DuckDB(_OnConflict):
    begin = "BEGIN TRANSACTION"
    has_cursors = False  # a cursor of its driver has a transaction of its own
    can_create = True
    types: ClassVar[dict[Kind, str]] = {
        "text": "VARCHAR",
        "integer": "BIGINT",
        "number": "DOUBLE",
        "boolean": "BOOLEAN",
        "json": "JSON",
        "date": "DATE",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
    }
    key_text = "VARCHAR"

    def uniques(self, run: Run, table: TableName) -> list[frozenset[str]]:
        where = "" if table.schema is None else f" AND schema_name = '{literal(table.schema)}'"
        rows = run(
            "SELECT constraint_column_names FROM duckdb_constraints() WHERE constraint_type IN "
            f"('PRIMARY KEY', 'UNIQUE') AND table_name = '{literal(table.name)}'{where}"
        )
        return [frozenset(row[0]) for row in rows]


_BY_NAME: dict[str, type[Dialect]] = {
    "postgresql": PostgreSQL,
    "postgres": PostgreSQL,
    "sqlite": SQLite,
    "mysql": MySQL,
    "mariadb": MySQL,
    "duckdb": DuckDB,
}


def dialect_of(names: Sequence[str]) -> Dialect:
    """Return the dialect for the first of these names that is known, and standard SQL if none is."""
    return next((_BY_NAME[name]() for name in names if name in _BY_NAME), Dialect())
