"""Rows of every kind in, and bad ones refused before anything is spent."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inferencekit import job, results, rows
from support import ENDPOINT, run_task, task_context

from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

TEXT = {"messages": [{"role": "user", "content": "{text}"}]}


def echoes(output: Path) -> list[str]:
    """What the dev server says it was asked."""
    return [row["output"].partition(" to: ")[2] for row in results(output)]


def test_prompts(server: DevServer, out: Path) -> None:
    """Strings are prompts, and braces in them are text."""
    summary = run_task(job(out, requests=["one", "two {{ ds }}", "{three}"], body=None))
    assert echoes(out) == ["one", "two {{ ds }}", "{three}"]
    assert summary["counts"]["succeeded"] == summary["rows"] == 3
    assert [row["custom_id"] for row in results(out)] == ["row-0", "row-1", "row-2"]


def test_bodies_and_whole_request_lines(server: DevServer, out: Path) -> None:
    """Bodies are sent as they are, and a line's own custom_id is kept."""
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "body"}]}
    line = {"custom_id": "mine", "method": "POST", "url": ENDPOINT, "body": body}
    run_task(job(out, requests=(item for item in [body, line]), body=None))
    assert [row["custom_id"] for row in results(out)] == ["row-0", "mine"]


def test_a_callable_makes_the_body(server: DevServer, out: Path) -> None:
    """Rows of any kind, for example tuples."""
    run_task(job(out, requests=[(1, 2), (3, 4)], body=lambda pair: f"sum of {pair[0]} and {pair[1]}"))
    assert echoes(out) == ["sum of 1 and 2", "sum of 3 and 4"]


def write_files(folder: Path) -> None:
    given = [{"key": f"k{n}", "text": f"text {n}"} for n in range(6)]
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given[:2]))
    with gzip.open(folder / "b.csv.gz", "wt") as lines:
        lines.write("key,text\n" + "".join(f"{row['key']},{row['text']}\n" for row in given[2:4]))
    pq.write_table(pa.Table.from_pylist(given[4:]), folder / "c.parquet")


@pytest.mark.parametrize("form", ["folder", "glob", "list", "uri"])
def test_files_of_each_format(server: DevServer, tmp_path: Path, out: Path, form: str) -> None:
    """A directory, a glob, several files, or a URI of them; JSONL, gzipped CSV and Parquet in one job."""
    folder = tmp_path / "in"
    write_files(folder)
    given: Any = {
        "folder": str(folder),
        "glob": f"{folder}/*.*",
        "list": [str(path) for path in sorted(folder.iterdir())],
        "uri": f"file://{folder}",
    }[form]
    run_task(job(out, input_uri=given, body=TEXT, id_column="key", keep_columns=["text"]))
    assert [(row["custom_id"], row["text"]) for row in results(out)] == [
        (f"k{n}", f"text {n}") for n in range(6)
    ]


def table(path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite database that the connection ``db`` leads to."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE places (id INTEGER, text TEXT)")
        connection.executemany("INSERT INTO places VALUES (?, ?)", [(n, f"t{n}") for n in range(count)])
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps({"conn_type": "sqlite", "host": str(path)}))


def test_a_query(server: DevServer, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are fetched at once, in the query's order."""
    monkeypatch.setattr("airflow_provider_openai_batches.inference.query.SQL_CHUNK", 7)
    table(tmp_path / "db.sqlite", 20, monkeypatch)
    sql = "SELECT id, text FROM places ORDER BY id DESC"
    run_task(job(out, sql=sql, sql_conn_id="db", body=TEXT, id_column="id", keep_columns=["id"]))
    assert [row["id"] for row in results(out)] == list(reversed(range(20)))
    assert echoes(out)[0] == "t19"


@pytest.mark.parametrize(
    "case",
    [
        ("SELECT id, text AS id FROM places", "two columns named id"),
        ("DELETE FROM places", "returns no rows"),
        ("SELECT id, text FROM places WHERE id < 0", "The job has no rows"),
    ],
)
def test_a_bad_query(
    server: DevServer, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str]
) -> None:
    """It says what is wrong with it."""
    sql, said = case
    table(tmp_path / "db.sqlite", 2, monkeypatch)
    with pytest.raises(InvalidInputError, match=said):
        run_task(job(out, sql=sql, sql_conn_id="db", body=TEXT))
    assert server.stats()["requests"] == {}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nosuch", "Install the provider .* apache-airflow-providers-nosuch"),
        ("generic", "Install the provider .* Then set the connection's type again"),
        ("fs", "which is not a database"),
        (None, "There is no connection 'db'"),
    ],
)
def test_a_connection_that_is_no_database(
    server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None, said: str
) -> None:
    """A missing provider is named, also where Airflow did not know the type when the connection was made."""
    if kind:
        monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps({"conn_type": kind}))
    with pytest.raises(InvalidInputError, match=said):
        run_task(job(out, sql="SELECT 1", sql_conn_id="db", body=TEXT))
    assert server.stats()["requests"] == {}


@pytest.mark.parametrize(
    ("endpoint", "model", "prompt"),
    [
        ("/v1/responses", "gpt-5-mini", "hello"),
        ("/v1/chat/completions", "gpt-5-mini", "hello"),
        ("/v1/completions", "gpt-3.5-turbo-instruct", "hello"),
        ("/v1/embeddings", "text-embedding-3-small", "hello"),
        ("/v1/moderations", "omni-moderation-latest", "hello"),
        ("/v1/images/generations", "gpt-image-1", "hello"),
        ("/v1/images/edits", "gpt-image-1", {"prompt": "hello", "image": "file-1"}),
        ("/v1/videos", "sora-2", {"prompt": "hello"}),
    ],
)
def test_each_endpoint(server: DevServer, out: Path, endpoint: str, model: str, prompt: Any) -> None:
    """Prompt in, the endpoint's own output back."""
    summary = run_task(job(out, endpoint=endpoint, model=model, requests=[prompt, prompt], body=None))
    assert summary["counts"]["succeeded"] == 2
    assert all(row["output"] for row in results(out))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"requests": []}, "The job has no rows"),
    ({"requests": rows(3), "body": {"x": "{nope}"}}, "Row 0: it has no column 'nope'"),
    ({"requests": ["not a dict"]}, "Row 0: a row must be a dict"),
    ({"requests": rows(2) + rows(1), "id_column": "key"}, "Rows 0 and 2 have the same custom_id 'k0'"),
    ({"requests": "a prompt"}, "the rows of a job must be a list"),
    ({"requests": rows(5), "max_requests": 4}, "more than max_requests=4"),
    ({"requests": rows(2), "max_bytes_per_batch": 60}, "Row 0 is .* bytes as a request"),
    ({"requests": rows(2), "keep_columns": ["status"]}, "keep_columns has status"),
    ({"requests": rows(2), "output_schema": {"type": "nosuch"}}, "not a valid JSON schema"),
    ({"requests": rows(2), "output_schema": 7}, "output_schema must be a dict or a pydantic model"),
    ({"requests": rows(2), "output": "tokens"}, "output is 'tokens'"),
    ({"requests": rows(2), "output_format": "xml"}, "output_format is 'xml'"),
    ({"requests": rows(2), "endpoint": "v1/x"}, "endpoint is 'v1/x'"),
    ({"requests": rows(2), "metadata": {str(n): "" for n in range(12)}}, "17 pairs"),
    ({"requests": rows(2), "completion_window": ""}, "completion_window"),
    ({"requests": rows(2), "model": None}, "its model is None"),
    ({"input_uri": "/no/such/file.jsonl", "body": TEXT}, "/no/such/file.jsonl does not exist"),
]


@pytest.mark.parametrize(("kwargs", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_costs_nothing(server: DevServer, out: Path, kwargs: dict[str, Any], said: str) -> None:
    """Found before a single request is sent, and nothing is left in the output."""
    operator = job(out, **kwargs)
    with pytest.raises(InvalidInputError, match=said):
        run_task(operator)
    assert server.stats()["requests"] == {}
    assert not [path for path in out.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "case",
    [
        ("a.csv", "key,text\n1,2,3\n", "a.csv, line 2: 3 fields, but the header has 2"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '["x"]\n', "a.jsonl, line 1: a row must be a JSON object"),
        ("a.xml", "<x/>", "unknown format"),
        ("a.parquet", "no parquet", "a.parquet cannot be read"),
    ],
)
def test_a_bad_file_is_named(
    server: DevServer, tmp_path: Path, out: Path, case: tuple[str, str, str]
) -> None:
    """With the line."""
    name, content, said = case
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=said):
        run_task(job(out, input_uri=str(tmp_path / name), body=TEXT))
    assert server.stats()["requests"] == {}


def test_an_output_that_cannot_be_written_is_found_first(server: DevServer, tmp_path: Path) -> None:
    """Before a row is read."""
    (tmp_path / "file").write_text("in the way")

    def explode() -> Any:
        yield from ()
        raise AssertionError("a row was read")

    with pytest.raises(InvalidInputError, match="cannot be written"):
        run_task(job(tmp_path / "file" / "out", requests=explode()))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({}, "this has none of them"),
        ({"requests": [], "sql": "x", "sql_conn_id": "y"}, "this has requests and sql"),
        ({"sql": "x"}, "sql and sql_conn_id belong together"),
        ({"requests": [], "sql_conn_id": "x"}, "sql and sql_conn_id belong together"),
        ({"requests": [], "max_requests_per_batch": 50_001}, "max_requests_per_batch is 50001"),
        ({"requests": [], "max_bytes_per_batch": 0}, "max_bytes_per_batch is 0"),
        ({"requests": [], "max_embedding_inputs_per_batch": "5"}, "max_embedding_inputs_per_batch is '5'"),
        ({"requests": [], "max_active_batches": 0}, "max_active_batches is 0"),
        ({"requests": [], "max_rounds": -1}, "max_rounds is -1"),
        ({"requests": [], "max_requests": True}, "max_requests is True"),
        ({"requests": [], "fail_on": 1.0}, "fail_on is 1.0"),
        ({"requests": [], "fail_on": "all"}, "fail_on is 'all'"),
        ({"requests": [], "output_expires_after": 1}, "output_expires_after is 1"),
        ({"requests": [], "input_expires_after": 1}, "input_expires_after is 1"),
        ({"requests": [], "poll_interval": 0}, "poll_interval is 0"),
        ({"requests": [], "retry_invalid": True}, "retry_invalid=True needs an output_schema"),
    ],
)
def test_bad_arguments_are_refused_when_the_dag_is_parsed(kwargs: dict[str, Any], said: str) -> None:
    """The DAG does not even import."""
    with pytest.raises(InvalidInputError, match=said):
        job("/tmp/x", body=None, **kwargs)  # noqa: S108 - nothing is written


def test_rows_are_never_rendered(server: DevServer, out: Path) -> None:
    """Only names and addresses are templates."""
    operator = job(out, requests=rows(1))
    assert not {"requests", "body", "output_schema", "keep_columns"} & set(operator.template_fields)
    before = operator.requests
    operator.render_template_fields(task_context(operator))
    assert operator.requests is before


@pytest.mark.parametrize("factory", ["dicts", "rows", "tuples"])
def test_a_query_whose_cursor_gives_dicts(
    server: DevServer, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    """Some connections are set up so: the values are asked about, not the names of the columns."""

    def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip([column[0] for column in cursor.description], row, strict=True))

    def connect(_hook: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "db.sqlite")
        connection.row_factory = {"dicts": as_dict, "rows": sqlite3.Row, "tuples": None}[factory]
        return connection

    table(tmp_path / "db.sqlite", 3, monkeypatch)
    monkeypatch.setattr("airflow.providers.sqlite.hooks.sqlite.SqliteHook.get_conn", connect)
    sql = "SELECT id, text FROM places ORDER BY id"
    run_task(job(out, sql=sql, sql_conn_id="db", body=TEXT, keep_columns=["id"]))
    assert echoes(out) == ["t0", "t1", "t2"]
    assert [row["id"] for row in results(out)] == [0, 1, 2]


@pytest.mark.parametrize("factory", [lambda _, row: object(), lambda _, row: "ab", lambda _, row: row[:1]])
def test_a_query_whose_rows_have_no_columns(
    server: DevServer, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, factory: Any
) -> None:
    """Psycopg's class_row and scalar_row: refused before anything is sent."""

    def connect(_hook: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "db.sqlite")
        connection.row_factory = factory
        return connection

    table(tmp_path / "db.sqlite", 3, monkeypatch)
    monkeypatch.setattr("airflow.providers.sqlite.hooks.sqlite.SqliteHook.get_conn", connect)
    sql = "SELECT id, text FROM places ORDER BY id"
    with pytest.raises(InvalidInputError, match=r"a row as \w+, which does not name the columns id, text"):
        run_task(job(out, sql=sql, sql_conn_id="db", body=TEXT))
    assert server.stats()["requests"] == {}
