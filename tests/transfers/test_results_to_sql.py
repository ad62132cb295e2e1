"""Results into a table: what is written, in which mode, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pytest
from databasekit import only
from pydantic import BaseModel
from resultskit import answers, finished, landed, row, write

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from transfers.conftest import Database

KEYED = "CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label TEXT, note TEXT)"


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
def test_a_missing_table_is_made(database: Database, tmp_path: Path, mode: str) -> None:
    """And filled; a second time it is the same."""
    uri = answers(tmp_path, "yes", "no", "maybe")
    expected = [("r0", "yes"), ("r1", "no"), ("r2", "maybe")]
    assert write(uri, mode=mode) == {"table": "labels", "rows": 3, "loaded_before": False}
    assert database.table() == expected
    again = write({"output_uri": uri}, mode=mode)
    assert again == {"table": "labels", "rows": 3, "loaded_before": mode == "append"}
    assert database.table() == expected


def test_an_upsert_replaces_by_key_and_leaves_other_columns(database: Database, tmp_path: Path) -> None:
    database.run(KEYED, "INSERT INTO labels VALUES ('r0', 'old', 'mine'), ('z', 'stays', NULL)")
    write(answers(tmp_path, "yes", "no"))
    assert database.table() == [("r0", "yes", "mine"), ("r1", "no", None), ("z", "stays", None)]


def test_an_upsert_of_keys_alone(database: Database, tmp_path: Path) -> None:
    database.run(KEYED, "INSERT INTO labels VALUES ('r0', 'old', 'mine')")
    write(answers(tmp_path, "yes", "no"), columns={})
    assert database.table() == [("r0", "old", "mine"), ("r1", None, None)]


def test_replace_empties_the_table_first(database: Database, tmp_path: Path) -> None:
    database.run(KEYED, "INSERT INTO labels VALUES ('r0', 'old', 'mine'), ('z', 'goes', NULL)")
    write(answers(tmp_path, "yes"), mode="replace")
    assert database.table() == [("r0", "yes", None)]


def test_append_adds_each_job_once(database: Database, tmp_path: Path) -> None:
    """Two jobs of the same rows are two jobs; other columns of the same job are another load."""
    one, two = answers(tmp_path, "yes", name="one"), answers(tmp_path, "yes", name="two")
    for uri in (one, two, one, two):
        write(uri, mode="append")
    assert database.table() == [("r0", "yes"), ("r0", "yes")]
    write(one, mode="append", columns={}, key="custom_id")
    assert len(database.table()) == 3
    database.run("DROP TABLE labels")
    write(one, mode="append")
    assert database.table() == [("r0", "yes")], "a table that is made anew has no loads"


def test_several_jobs_come_in_one_transaction(database: Database, tmp_path: Path) -> None:
    """As the output of mapped tasks; ids that two of them share are refused."""
    one, two = answers(tmp_path, "yes", name="one"), answers(tmp_path, "no", name="two", first=1)
    write([{"output_uri": one}, {"output_uri": two}], mode="replace")
    assert database.table() == [("r0", "yes"), ("r1", "no")]
    same = answers(tmp_path, "no", name="same")
    database.run("DROP TABLE labels", KEYED)
    with pytest.raises(InvalidInputError, match=r"not unique: custom_id='r0' .* rows r0, r0"):
        write([one, same])
    assert database.table() == []


def test_only_the_statuses_that_are_asked_for(database: Database, tmp_path: Path) -> None:
    rows = [row("a", "yes"), row("b", None, "failed"), row("c", "no", "invalid_output")]
    uri = landed(tmp_path / "out", rows)
    assert write(uri)["rows"] == 1
    write(uri, statuses=["failed", "invalid_output"], mode="replace", columns={"label": "output"})
    assert database.table() == [("b", None), ("c", "no")]


class Place(BaseModel):
    """What was found out about a place."""

    city: str
    runways: int | None
    height: float
    is_open: bool
    kind: Literal["civil", "military"]
    tags: list[str]
    owner: dict[str, int]


PLACE = {
    "city": "Oslo",
    "runways": 2,
    "height": 1.5,
    "is_open": True,
    "kind": "civil",
    "tags": ["a", "é"],
    "owner": {"n": 1},
}


FORMATS: dict[str, dict[str, Any]] = {
    "jsonl": {"output_format": "jsonl"},
    "parquet": {"output_format": "parquet"},
    "typed": {"output_format": "parquet", "typed_output": True},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("has_schema", [True, False], ids=["schema", "values"])
def test_types(database: Database, tmp_path: Path, form: str, has_schema: bool) -> None:
    """A model becomes columns; nested values become JSON; without the model the values say the types."""
    places = [PLACE, {**PLACE, "runways": None, "height": 2, "is_open": False}]
    rows = [{"id": f"p{number}", "text": json.dumps(place)} for number, place in enumerate(places)]
    uri = finished(tmp_path / "out", rows, schema=Place, **FORMATS[form])
    columns = None if has_schema else {name: f"output.{name}" for name in PLACE}
    write(uri, columns=columns, output_schema=Place if has_schema else None)
    plain = [database.rows("SELECT custom_id, city, runways, height, is_open, kind FROM labels ORDER BY 1")]
    assert plain == [[("p0", "Oslo", 2, 1.5, True, "civil"), ("p1", "Oslo", None, 2.0, False, "civil")]]
    for tags, owner in database.rows("SELECT tags, owner FROM labels"):
        read = [json.loads(value) if isinstance(value, str) else value for value in (tags, owner)]
        assert read == [["a", "é"], {"n": 1}]


def test_the_text_beside_a_typed_output(database: Database, tmp_path: Path) -> None:
    """It is a column like any other; paths lead into the values that the types leave open."""
    rows = [{"id": "a", "text": json.dumps(PLACE)}, {"id": "b", "text": "Oslo"}]
    uri = finished(tmp_path / "out", rows, schema=Place, **FORMATS["typed"])
    columns = {"city": "output.city", "n": "output.owner.n", "whole": "output", "said": "output_text"}
    write(uri, columns=columns, statuses=["succeeded", "invalid_output"])
    found = {row[0]: row[1:] for row in database.table()}
    city, number, whole, said = found["a"]
    assert (city, int(number), said) == ("Oslo", 1, None)
    assert (json.loads(whole) if isinstance(whole, str) else whole) == PLACE
    assert found["b"] == (None, None, None, "Oslo")


def test_dates_and_times(database: Database, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "seen": {"type": "string", "format": "date-time"},
        },
    }
    uri = answers(tmp_path, {"day": "2025-03-01", "seen": "2025-03-01T12:30:00+02:00"})
    write(uri, columns=None, output_schema=schema)
    ((_, day, seen),) = database.table()
    assert str(day) == "2025-03-01"
    if hasattr(seen, "tzinfo") and seen.tzinfo:
        assert seen.isoformat() == "2025-03-01T12:30:00+02:00" or seen.utctimetuple().tm_hour == 10
    else:
        assert str(seen).startswith(("2025-03-01 10:30:00", "2025-03-01T12:30:00+02:00"))


NASTY = [
    "a\tb\nc\r\nd\\e\\N",
    "\\.",
    "\\N",
    "",
    " ",
    "é 🚀 ' \" ` ; -- %s ? {}",
    "x\n\\.\ny",
    '"',
    "'); DROP TABLE labels; --",
    "None",
    "NULL",
]


def test_any_text_arrives_as_it_is(database: Database, tmp_path: Path) -> None:
    write(answers(tmp_path, *NASTY))
    assert [value for _, value in sorted(database.table(), key=lambda found: int(found[0][1:]))] == NASTY
    write(answers(tmp_path, *reversed(NASTY), name="again"))
    assert database.table()[0] == ("r0", "NULL")


def test_odd_names_are_quoted(database: Database, tmp_path: Path) -> None:
    write(
        answers(tmp_path, "yes"),
        table='or"der',
        columns={"select": "custom_id", "a b'`\"c": "output"},
        key="select",
    )
    name = '`or"der`' if database.kind == "mysql" else '"or""der"'
    with database.connected() as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {name}")  # noqa: S608 - a name of this test's
        assert [tuple(found) for found in cursor.fetchall()] == [("r0", "yes")]


def test_a_table_in_a_schema(database: Database, tmp_path: Path) -> None:
    schema = "main" if database.kind in {"sqlite", "duckdb"} else "mart"
    if schema == "mart":
        database.run("CREATE SCHEMA mart")
    for _ in range(2):
        write(answers(tmp_path, "yes", name=f"out{_}"), table=f"{schema}.labels", mode="upsert")
    assert database.table(f"{schema}.labels") == [("r0", "yes")]


def test_kept_columns_as_keys_and_paths(database: Database, tmp_path: Path) -> None:
    """A key of several columns; text that is a number goes into a column of integers."""
    database.run(
        "CREATE TABLE labels (shop INTEGER, day TEXT, label TEXT, tokens INTEGER, PRIMARY KEY (shop, day))"
    )
    rows = [
        {**row("a", "yes", shop="7", day="mon"), "usage": {"total_tokens": 5}},
        {**row("b", "no", shop=7, day="tue"), "usage": {"total_tokens": 6}},
    ]
    uri = landed(tmp_path / "out", rows)
    write(uri, columns={"label": "output", "tokens": "usage.total_tokens"}, key=["shop", "day"])
    assert database.table() == [(7, "mon", "yes", 5), (7, "tue", "no", 6)]


def test_a_path_into_text_reads_it_as_json(database: Database, tmp_path: Path) -> None:
    uri = answers(tmp_path, '{"city": "Oslo", "tags": ["a", "b"]}', {"city": "Bergen"})
    write(uri, columns={"city": "output.city", "tag": "output.tags.1"})
    assert database.table() == [("r0", "Oslo", "b"), ("r1", "Bergen", None)]
    with pytest.raises(
        InvalidInputError, match=r"Row 'r0', column 'city': 'output\.city' leads to no value: .*not JSON"
    ):
        write(answers(tmp_path, "Oslo", name="text"), columns={"city": "output.city"}, mode="replace")


def test_an_empty_job(database: Database, tmp_path: Path) -> None:
    database.run(KEYED, "INSERT INTO labels VALUES ('z', 'stays', NULL)")
    uri = landed(tmp_path / "out", [])
    assert write(uri)["rows"] == 0
    assert write(uri, mode="append")["rows"] == 0
    assert len(database.table()) == 1
    assert write(uri, mode="replace")["rows"] == 0
    assert database.table() == []


def test_a_table_is_not_emptied_for_a_job_without_a_success(database: Database, tmp_path: Path) -> None:
    uri = finished(tmp_path / "out", [{"id": "a", "text": "x"}], faults={"a": "invalid"})
    database.run(KEYED, "INSERT INTO labels VALUES ('z', 'stays', NULL)")
    with pytest.raises(InvalidInputError, match="Not one of 1 rows succeeded: labels is left as it was"):
        write(uri, mode="replace")
    assert len(database.table()) == 1


@only("postgres")
def test_a_database_that_is_not_known(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By standard SQL alone; here PostgreSQL is such a database. The table must be there."""
    monkeypatch.setattr("airflow_provider_openai_batches.sql.dialects._BY_NAME", {})
    uri = answers(tmp_path, *NASTY[:3])
    with pytest.raises(InvalidInputError, match="none is made: this database's types are not known"):
        write(uri)
    database.run(KEYED, "INSERT INTO labels VALUES ('r0', 'old', 'mine'), ('z', 'stays', NULL)")
    rows = [(f"r{number}", text, None) for number, text in enumerate(NASTY[:3])]
    for _ in range(2):
        write(uri)
        assert database.table() == [("r0", NASTY[0], "mine"), *rows[1:], ("z", "stays", None)]
    write(uri, columns={})
    write(uri, mode="replace")
    assert database.table() == rows
    database.run("ALTER TABLE labels DROP CONSTRAINT labels_pkey")
    for _ in range(2):
        write(uri, mode="append")
        assert len(database.table()) == 6
    with pytest.raises(InvalidInputError, match="needs to be letters and digits"):
        write(uri, columns={"a b": "output"})
    with pytest.raises(InvalidInputError, match="no column 'town'; it has custom_id, label, note"):
        write(uri, columns={"town": "output"})
