"""What a database differs in: quoting, types, what it says of a table, and how rows replace others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.sql.kinds import Bounds, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[..., list[tuple[Any, ...]]]

_PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_ODD = re.compile(r"[\x00-\x1f\x7f%?]")  # the last two would be taken for placeholders
# Characters of a key that is text, and of all parts of one: MySQL takes 3,072 bytes, at four a letter.
_LONGEST_KEY, _LONGEST_KEYS = 512, 760


class TableColumn(msgspec.Struct, frozen=True):
    """
    A column that a table has.

    :param type: as the database calls it.
    :param is_required: whether each row needs a value, because there is no default.
    :param is_computed: whether it takes no value.
    """

    name: str
    type: str
    kind: Kind
    bounds: Bounds = Bounds()
    is_required: bool = False
    is_computed: bool = False


class TableName(msgspec.Struct, frozen=True):
    """The name of a table, with that of its schema if it was given."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return ".".join(filter(None, (self.schema, self.name)))

    def beside(self, name: str) -> TableName:
        """Return another table in the same schema."""
        return TableName(self.schema, name)


class Dialect:
    """
    What standard SQL has, for databases that are not known; subclasses say what the known ones do.

    Names are not quoted: databases differ in what that does to capital letters. No table is made: they differ
    in the names of types, too.
    """

    mark = ""
    longest_name = 63
    begin: str | None = None  # for drivers that begin no transaction by themselves
    can_create = False
    has_transactional_ddl = True
    has_savepoints = False
    has_cursors = True
    has_booleans = True
    has_zones = True
    ignores_case = True
    types: ClassVar[dict[Kind, str]] = {}
    key_text = "VARCHAR({length})"
    create_table = "CREATE TABLE"
    # Errors about values that the driver does not tell from those of the server by their class.
    codes_of_values: frozenset[int] = frozenset()
    drop_stage = "DROP TABLE"
    knows_uniques = False
    # Whether an upsert goes by every unique key of the table rather than by the one that is named.
    upserts_by_any_key = False

    def check_name(self, name: str, what: str) -> None:
        """
        Make sure that the database can have this name.

        :raises InvalidInputError: if it cannot.
        """
        if not name or _ODD.search(name) or len(name.encode()) > self.longest_name:
            raise InvalidInputError(
                f"{what} is {name!r:.100}: it needs 1 to {self.longest_name} characters, none of them a "
                "control character, a percent sign or a question mark"
            )
        if not self.mark and not _PLAIN.fullmatch(name):
            raise InvalidInputError(
                f"{what} is {name!r:.100}: in this database it needs to be letters and digits"
            )

    def quoted(self, name: str) -> str:
        return f"{self.mark}{name.replace(self.mark, self.mark * 2)}{self.mark}" if self.mark else name

    def table(self, table: TableName) -> str:
        return ".".join(self.quoted(part) for part in (table.schema, table.name) if part is not None)

    def joined(self, names: Sequence[str]) -> str:
        return ", ".join(map(self.quoted, names))

    def folded(self, name: str) -> str:
        """Return what two spellings of one column have in common."""
        return name.lower() if self.ignores_case else name

    def prepare(self, connection: Any) -> None:
        """Set a new connection up."""

    def columns(self, run: Run, table: TableName) -> list[TableColumn]:
        """Return the columns of a table; none if there is no such table."""
        where = f"LOWER(table_name) = LOWER('{literal(table.name)}')"
        if table.schema is not None:
            where += f" AND LOWER(table_schema) = LOWER('{literal(table.schema)}')"
        rows = run(
            "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            f"WHERE {where} ORDER BY ordinal_position"
        )
        return [
            TableColumn(name, kind, self.kind(kind), is_required=nullable == "NO" and default is None)
            for name, kind, nullable, default in rows
        ]

    def kind(self, name: str) -> Kind:
        """Return the kind of a type by its name in standard SQL."""
        return _ANSI.get(re.sub(r"[(\s].*", "", name.lower()), "other")

    def uniques(self, run: Run, table: TableName) -> list[frozenset[str]] | None:
        """Return the sets of columns whose values together are unique; None where that is not known."""
        return None

    def refusal(self, run: Run, table: TableName) -> str | None:
        """Say why a table cannot be loaded exactly once; None if it can."""
        return None

    def create(self, table: TableName, columns: Sequence[tuple[str, Kind]], key: Sequence[str]) -> str:
        key_text = self.key_text.format(length=min(_LONGEST_KEY, _LONGEST_KEYS // max(1, len(key))))
        lines = [
            f"{self.quoted(name)} "
            + (key_text if name in key and kind == "text" else self.types[kind])
            + (" NOT NULL" if name in key else "")
            for name, kind in columns
        ]
        if key:
            lines.append(f"PRIMARY KEY ({self.joined(key)})")
        return f"{self.create_table} {self.table(table)} ({', '.join(lines)})"

    def stage(self, stage: str, table: TableName, columns: Sequence[str]) -> str:
        """Return the statement that makes an empty table of this session, with another's columns."""
        return (
            f"CREATE TEMPORARY TABLE {self.quoted(stage)} AS "
            f"SELECT {self.joined(columns)} FROM {self.table(table)} WHERE 1 = 0"
        )

    def merge(
        self, table: TableName, stage: str, columns: Sequence[str], key: Sequence[str]
    ) -> Sequence[str]:
        """Return the statements that put the rows of a stage in the place of those with their keys."""
        target, source = self.table(table), self.quoted(stage)
        same = " AND ".join(f"{target}.{self.quoted(name)} = {source}.{self.quoted(name)}" for name in key)
        others = [name for name in columns if name not in key]
        sets = ", ".join(
            f"{self.quoted(name)} = (SELECT {source}.{self.quoted(name)} FROM {source} WHERE {same})"
            for name in others
        )
        update = f"UPDATE {target} SET {sets} WHERE EXISTS (SELECT 1 FROM {source} WHERE {same})"
        insert = (
            f"INSERT INTO {target} ({self.joined(columns)}) SELECT {self.joined(columns)} FROM {source} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {target} WHERE {same})"
        )
        return [update, insert] if others else [insert]

    def lock(self, table: TableName) -> str | None:
        """Return the statement that keeps other writers out until the transaction ends."""
        return None

    def lock_for_creation(self) -> str | None:
        """Return the statement that waits for others who are making a table, until the transaction ends."""
        return None


def literal(text: str) -> str:
    """Return a text for a place between single quotes."""
    return text.replace("'", "''")


_ANSI: dict[str, Kind] = {
    **dict.fromkeys(("char", "varchar", "text", "string", "character", "nvarchar", "clob"), "text"),
    **dict.fromkeys(("bigint", "integer", "int", "smallint"), "integer"),
    **dict.fromkeys(("double", "float", "real", "numeric", "decimal", "number"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("json", "variant", "super"), "json"),
    "date": "date",
    "timestamp": "timestamp",
}
