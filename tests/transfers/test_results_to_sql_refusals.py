"""What is refused, before a row is written: each error names what does not fit, and nothing stays behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from databasekit import WITH_A_SERVER, only
from resultskit import LABELS, answers, landed, row, write

from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed
from airflow_provider_openai_batches.sql.table import check_table
from airflow_provider_openai_batches.transfers.openai_batch_results_to_sql import (
    OpenAIBatchResultsToSqlOperator,
)

if TYPE_CHECKING:
    from pathlib import Path

    from transfers.conftest import Database

KEYED = "CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label TEXT)"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "runways": {"type": "integer"}},
    "additionalProperties": False,
}


def refused(results: str, match: str, **options: Any) -> None:
    with pytest.raises(InvalidInputError, match=match):
        write(results, **options)


@pytest.mark.parametrize(
    ("table", "options", "match"),
    [
        ("custom_id TEXT PRIMARY KEY, name TEXT", {}, "no column 'label'; it has custom_id, name"),
        ("label TEXT", {}, "no column 'custom_id'"),
        ("custom_id TEXT, label TEXT", {}, "no primary key or unique constraint on custom_id"),
        (
            "custom_id TEXT, label TEXT, PRIMARY KEY (custom_id, label)",
            {},
            "no primary key or unique constraint on custom_id",
        ),
        (
            "custom_id TEXT PRIMARY KEY, label TEXT, day TEXT NOT NULL",
            {},
            r"needs a value for day in each row \(NOT NULL, no default\)",
        ),
        (
            "custom_id TEXT PRIMARY KEY, city INTEGER",
            {"columns": {"city": "output.city"}, "output_schema": SCHEMA},
            r"'city' of labels has the type .*, which does not take 'output\.city': .* that is text",
        ),
    ],
)
def test_a_table_that_does_not_fit(
    database: Database, tmp_path: Path, table: str, options: dict[str, Any], match: str
) -> None:
    """By the load, and by the check before a job."""
    database.run(f"CREATE TABLE labels ({table})")
    refused(answers(tmp_path, "yes"), match, **options)
    with pytest.raises(InvalidInputError, match=match):
        check_table("warehouse", "labels", **{"columns": LABELS, **options})
    assert database.table() == []


def test_a_table_that_fits_although_it_has_more(database: Database, tmp_path: Path) -> None:
    """Defaults, a number of its own, and a unique constraint in place of a primary key."""
    number = {
        "sqlite": "id INTEGER PRIMARY KEY",
        "mysql": "id INTEGER AUTO_INCREMENT PRIMARY KEY",
        "duckdb": "id INTEGER DEFAULT 1",
    }.get(database.kind, "id SERIAL PRIMARY KEY")
    database.run(
        f"CREATE TABLE labels ({number}, custom_id TEXT NOT NULL UNIQUE, label TEXT, "
        "day TEXT DEFAULT 'today' NOT NULL)"
    )
    check_table("warehouse", "labels", columns=LABELS)
    for _ in range(2):
        write(answers(tmp_path, "yes", name=f"out{_}"))
    assert [found[1:] for found in database.table()] == [("r0", "yes", "today")]


def test_a_table_for_the_text_beside_a_typed_output(database: Database) -> None:
    """It can be checked before there are results."""
    columns = {"label": "output", "said": "output_text"}
    check_table("warehouse", "labels", columns=columns, row_columns=["custom_id"])


def test_a_missing_table_is_made_only_if_it_may_be(database: Database, tmp_path: Path) -> None:
    match = "no table labels in 'warehouse', and none is made: create_table is off"
    refused(answers(tmp_path, "yes"), match, create_table=False)
    with pytest.raises(InvalidInputError, match=match):
        check_table("warehouse", "labels", columns=LABELS, create_table=False)
    assert not database.exists()


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
def test_a_check_changes_nothing(database: Database, mode: str) -> None:
    """Not even if there is no table yet."""
    check_table("warehouse", "labels", columns=LABELS, mode=mode)
    assert not database.exists()
    database.run(KEYED, "INSERT INTO labels VALUES ('r0', 'old')")
    check_table("warehouse", "labels", columns=LABELS, mode=mode)
    assert database.table() == [("r0", "old")]
    assert not database.exists("openai_batches_loads")


@only("sqlite", "postgres", "psycopg2", "duckdb")
def test_a_check_finds_that_a_schema_is_missing(database: Database) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.labels in 'warehouse' cannot be written to"):
        check_table("warehouse", "nowhere.labels", columns=LABELS)


@only(*WITH_A_SERVER)
def test_a_check_finds_that_rights_are_missing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.run(KEYED)
    if database.kind == "mysql":
        database.run("CREATE USER IF NOT EXISTS reader@'%'", "GRANT SELECT ON warehouse.* TO reader@'%'")
        database.run("GRANT CREATE TEMPORARY TABLES ON warehouse.* TO reader@'%'")
    else:
        database.run(
            "DROP ROLE IF EXISTS reader",
            "CREATE ROLE reader LOGIN",
            "GRANT SELECT ON labels TO reader",
            "GRANT USAGE ON SCHEMA public TO reader",
        )
    place = json.dumps({**database.connection(), "login": "reader"})
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", place)
    for mode in ("upsert", "append", "replace"):
        with pytest.raises(InvalidInputError, match=r"labels in 'warehouse' cannot be written to: .*denied"):
            check_table("warehouse", "labels", columns=LABELS, mode=mode)


def test_a_key_that_rows_share(database: Database, tmp_path: Path) -> None:
    """Both in a table that is made and in one that is there; the rows are named."""
    rows = [row(f"r{n}", "yes", shop=shop) for n, shop in enumerate(["a", "b", "c", "b"])]
    uri = landed(tmp_path / "out", rows)
    named = {"duckdb": "'r0' to 'r3'", "mysql": "rows r1, r3"}.get(database.kind, r"'r3' \(shop='b'\)")
    refused(uri, named, key="shop")
    assert not database.exists() or database.table() == []
    database.run("DROP TABLE IF EXISTS labels", "CREATE TABLE labels (shop TEXT PRIMARY KEY, label TEXT)")
    refused(uri, r"not unique: shop='b' is that of the rows r1, r3", key="shop")
    refused(uri, named if database.kind == "duckdb" else r"'r3' \(shop='b'\)", key="shop", mode="append")
    assert database.table() == []


def test_a_row_without_a_key(database: Database, tmp_path: Path) -> None:
    uri = landed(tmp_path / "out", [row("r0", "yes", shop="a"), row("r1", "no", shop=None)])
    refused(uri, "Row 'r1', column 'shop': None does not fit: the column needs a value", key="shop")
    assert not database.exists() or database.table() == []


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
@pytest.mark.parametrize(
    ("kind", "value", "match"),
    [
        ("INTEGER", "many", "'many' does not fit: it is no integer"),
        ("INTEGER", 1.5, "1.5 does not fit: it is no integer"),
        ("INTEGER", 2**63, "does not fit: the column takes"),
        ("BOOLEAN", "maybe", "neither true nor false"),
        ("REAL", "much", "could not convert"),
        ("TEXT", "a\0b", "NUL"),
    ],
)
def test_a_value_that_does_not_fit(  # noqa: PLR0917 - a table of values
    database: Database, tmp_path: Path, mode: str, kind: str, value: Any, match: str
) -> None:
    """The message names row and column, whichever row it is, and the rows before it are not there."""
    database.run(f"CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label {kind})")
    good = "yes" if kind == "TEXT" else 1
    uri = answers(tmp_path, good, good, value, good)
    with pytest.raises(InvalidInputError, match=f"Row 'r2', column 'label': .*{match}.* Nothing was written"):
        write(uri, mode=mode)
    assert database.table() == []


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
def test_a_value_that_the_database_refuses(database: Database, tmp_path: Path, mode: str) -> None:
    """The row is named where it is written to the table itself; what the database says is always there."""
    database.run("CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label INTEGER CHECK (label < 5))")
    uri = answers(tmp_path, 1, 2, 7, 3)
    with pytest.raises((InvalidInputError, LoadFailed), match="labels") as refusal:
        write(uri, mode=mode)
    assert "check" in str(refusal.value).lower() or "constraint" in str(refusal.value).lower()
    if mode != "upsert" and database.kind != "duckdb":
        assert "the row 'r2' (custom_id='r2')" in str(refusal.value)
    assert database.table() == []


@only(*WITH_A_SERVER)
def test_text_that_is_too_long(database: Database, tmp_path: Path) -> None:
    with database.connected() as connection:
        connection.cursor().execute(
            "CREATE TABLE labels (custom_id VARCHAR(9) PRIMARY KEY, label VARCHAR(3))"
        )
        connection.commit()
    refused(
        answers(tmp_path, "yes", "éèêë"), "Row 'r1', column 'label': .* 4 characters, and the column takes 3"
    )
    assert database.table() == []


@only("mysql")
def test_tables_without_transactions(database: Database, tmp_path: Path) -> None:
    database.run("CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label TEXT) ENGINE = MyISAM")
    refused(answers(tmp_path, "yes"), "its engine, MyISAM, has no transactions")


def test_another_unique_key(database: Database, tmp_path: Path) -> None:
    """MySQL's upsert goes by all keys; that of the others goes by the one that is named."""
    database.run("CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label TEXT UNIQUE)")
    if database.kind == "mysql":
        refused(answers(tmp_path, "yes"), "another unique key, on label")
        return
    write(answers(tmp_path, "yes"))
    with pytest.raises((InvalidInputError, LoadFailed)):
        write(answers(tmp_path, "yes", name="other", first=1))
    assert database.table() == [("r0", "yes")]


@only("sqlite", "postgres", "psycopg2", "mysql")
def test_a_computed_column(database: Database, tmp_path: Path) -> None:
    computed = "label VARCHAR(9) GENERATED ALWAYS AS (custom_id) STORED"
    database.run(f"CREATE TABLE labels (custom_id TEXT PRIMARY KEY, {computed})")
    refused(answers(tmp_path, "yes"), "'label' of labels is computed")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "merge"}, "mode is 'merge': it must be 'upsert', 'append', 'replace'"),
        ({"key": None}, "mode='upsert' needs a key"),
        ({"statuses": ["done"]}, "statuses names 'done': each must be one of 'succeeded'"),
        ({"statuses": []}, "statuses is empty"),
        ({"columns": {}, "key": None, "mode": "append"}, "columns is empty"),
        ({"columns": {"a": "output..b"}}, r"columns has 'a': 'output\.\.b'"),
        ({"columns": {"a": 1}}, "columns has 'a': 1"),
        (
            {"columns": {"a": "output.town"}, "output_schema": SCHEMA},
            "output_schema has no field 'town' there; it has city, runways",
        ),
        ({"output_schema": "text"}, "output_schema must be a dict or a pydantic model"),
    ],
)
def test_arguments_are_checked_when_the_dag_is_parsed(options: dict[str, Any], match: str) -> None:
    arguments: dict[str, Any] = {"conn_id": "warehouse", "table": "labels", **options}
    with pytest.raises(InvalidInputError, match=match):
        OpenAIBatchResultsToSqlOperator(task_id="load", results="somewhere", **arguments)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"table": "a.b.c"}, "table is 'a.b.c': it must be 'table' or 'schema.table'"),
        ({"table": ""}, "table is ''"),
        ({"table": "la\nbels"}, "none of them a control character"),
        ({"columns": {"share_%": "output"}}, "a percent sign or a question mark"),
        (
            {"columns": {"label": "shop"}},
            "to be filled from 'shop', which the results do not have. They have custom",
        ),
    ],
)
def test_names_are_checked(database: Database, tmp_path: Path, options: dict[str, Any], match: str) -> None:
    refused(answers(tmp_path, "yes"), match, **options)


def test_no_retry_follows_a_refusal(database: Database, tmp_path: Path) -> None:
    """Another try would be refused too."""
    database.run("CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label INTEGER)")
    with pytest.raises(AirflowFailException, match="Row 'r1', column 'label'"):
        write(answers(tmp_path, 1, "no"))


def test_results_that_are_not_complete(database: Database, tmp_path: Path) -> None:
    """Also if a part turns out to be wrong only as it is read."""
    uri = answers(tmp_path, "yes", "no", "maybe")
    (tmp_path / "out" / "part-00001.jsonl").write_bytes(
        b"[" * (tmp_path / "out/part-00001.jsonl").stat().st_size
    )
    database.run(KEYED)
    refused(uri, r"part-00001\.jsonl, line 1: not a result")
    assert database.table() == []
    (tmp_path / "out" / "manifest.json").unlink()
    refused(uri, "not complete")
    refused("", "results is empty")


def test_a_connection_that_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "openai_batches", "password": "sk-1"})
    )
    refused(answers(tmp_path, "yes"), "the type 'openai_batches', which is not a database")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "oracle", "password": "secret"}))
    with pytest.raises(
        InvalidInputError, match=r"Install the provider .* apache-airflow-providers-oracle"
    ) as found:
        check_table("warehouse", "labels")
    assert "secret" not in str(found.value)


def test_a_database_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That may pass, so a retry follows."""
    place = {"conn_type": "sqlite", "host": str(tmp_path / "no folder" / "warehouse.db")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(place))
    with pytest.raises(LoadFailed, match="database of 'warehouse' cannot be reached"):
        write(answers(tmp_path, "yes"))
