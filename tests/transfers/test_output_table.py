"""One task from rows to a table: what is refused before anything is sent, and each death on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from databasekit import only
from inferencekit import job, results
from support import run_task
from tablekit import LABELS, ROWS, TEXT, classify, dies, tried

from airflow_provider_openai_batches.decorators.openai_batch import OpenAIBatchDecoratedOperator
from airflow_provider_openai_batches.exceptions import InvalidInputError, LoadFailed, TaskKilled
from airflow_provider_openai_batches.inference.results import JobResults
from airflow_provider_openai_batches.sql.columns import RowValues

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transfers.conftest import Database

    from airflow_provider_openai_batches.devserver import DevServer

KEYED = "CREATE TABLE labels (iata TEXT PRIMARY KEY, label TEXT)"
CITIES = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "runways": {"type": "integer"}},
    "additionalProperties": False,
    "required": ["city", "runways"],
}
NOT_ASKED = """SELECT places.iata, places.text FROM places LEFT JOIN labels ON labels.iata = places.iata
    WHERE labels.iata IS NULL ORDER BY places.iata"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def service(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> DevServer:
    # A batch whose answer was lost is looked for only briefly, unlike in a real deployment.
    monkeypatch.setenv("AIRFLOW__OPENAI_BATCHES__RECOVERY_SECONDS", "0.2")
    server.settings(batch_seconds=0.05)
    return server


def is_complete(database: Database, out: Path) -> bool:
    wanted = [(row["custom_id"], row["output"]) for row in results(out)]
    return database.table() == sorted(wanted) and len(wanted) == len(ROWS)


def created(service: DevServer) -> int:
    return int(service.stats()["requests"].get("create_batch", 0))


def nothing_was_sent(service: DevServer) -> bool:
    requests = service.stats()["requests"]
    return not {"upload_file", "create_batch"} & {name for name, count in requests.items() if count}


@pytest.mark.parametrize("deferrable", [True, False])
def test_rows_to_a_table_in_one_task(
    database: Database, service: DevServer, out: Path, *, deferrable: bool
) -> None:
    """The summary says what was written; the table is made if it is missing."""
    summary = tried(classify(out, deferrable=deferrable))
    assert summary["table"] == {"table": "labels", "rows": 5, "loaded_before": False}
    assert summary["counts"]["succeeded"] == 5
    assert is_complete(database, out)
    assert created(service) == 1


def test_a_decorated_function(database: Database, out: Path) -> None:
    operator = classify(out, OpenAIBatchDecoratedOperator, python_callable=lambda: iter(ROWS))
    assert tried(operator)["table"]["rows"] == 5
    assert is_complete(database, out)
    assert {"output_table", "output_conn_id"} <= set(OpenAIBatchDecoratedOperator.template_fields)


def test_without_a_table_nothing_is_said_of_one(out: Path) -> None:
    operator = job(out, requests=ROWS, body=TEXT)
    assert "table" not in run_task(operator)


def test_the_fields_of_a_schema_become_columns(database: Database, out: Path, service: DevServer) -> None:
    """With the types that they have."""
    tried(classify(out, output_schema=CITIES, output_columns=None, output_key="custom_id"))
    found = database.rows("SELECT custom_id, city, runways FROM labels ORDER BY custom_id")
    assert [row[0] for row in found] == [row["iata"] for row in ROWS]
    assert all(isinstance(row[1], str) and isinstance(row[2], int) for row in found)


def test_whole_bodies_have_paths_of_their_own(database: Database, out: Path) -> None:
    """The schema is that of the answer, not of the body."""
    columns = {"iata": "custom_id", "model": "output.model"}
    tried(classify(out, output="body", output_schema=CITIES, output_columns=columns))
    assert [row[1] for row in database.table()] == ["gpt-5-mini"] * 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"output_conn_id": None}, "output_table and output_conn_id belong together"),
        ({"output_table": None}, "output_table and output_conn_id belong together"),
        ({"output_table": None, "output_conn_id": None}, "output_columns and output_key: output_table is"),
        ({"output_mode": "merge"}, "^output_mode is 'merge': it must be 'upsert'"),
        ({"output_key": None}, "^output_mode='upsert' needs a key"),
        ({"output_columns": {}, "output_key": None, "output_mode": "append"}, "^output_columns is empty"),
        (
            {"output_columns": {**LABELS, "label": "city"}},
            "'label' is to be filled from 'city', .* need keep_columns",
        ),
        ({"output_columns": {"a": "output.name"}, "output_schema": CITIES}, "^output_columns takes 'a' from"),
    ],
)
def test_arguments_are_checked_when_the_dag_is_parsed(out: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        classify(out, **options)


def refused(
    operator: Any, service: DevServer, match: str, kind: type[Exception] = AirflowFailException
) -> None:
    with pytest.raises(kind, match=match):
        tried(operator)
    assert nothing_was_sent(service)


@pytest.mark.parametrize("is_dry_run", [False, True])
@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("iata TEXT PRIMARY KEY", "has no column 'label'; it has iata. .*Nothing was sent"),
        ("iata TEXT, label TEXT", "no primary key or unique constraint on iata.*Nothing was sent"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_a_row_is_read(
    database: Database, service: DevServer, out: Path, table: str, match: str, *, is_dry_run: bool
) -> None:
    """And the output directory is left as it was."""
    database.run(f"CREATE TABLE labels ({table})")

    def rows() -> Iterator[dict[str, Any]]:
        raise AssertionError("a row is read")
        yield {}

    operator = classify(out, OpenAIBatchDecoratedOperator, python_callable=rows, dry_run=is_dry_run)
    refused(operator, service, match)
    assert not out.exists()
    assert database.table() == []


def test_a_dry_run_checks_the_table_and_writes_nothing(
    database: Database, service: DevServer, out: Path
) -> None:
    assert tried(classify(out, dry_run=True))["dry_run"]
    assert not database.exists()
    assert nothing_was_sent(service)


def test_a_connection_that_is_missing(service: DevServer, out: Path) -> None:
    refused(classify(out, output_conn_id="elsewhere"), service, "There is no connection 'elsewhere'")


def test_a_database_that_is_away_at_the_start(
    service: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come back, so a retry follows; it checks the table too."""
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "sqlite", "host": "/nowhere/at/all.db"}')
    for number in (1, 2):
        with pytest.raises(LoadFailed, match=r"'warehouse' cannot be reached: .*\. Nothing was sent"):
            tried(classify(out), number)
        assert nothing_was_sent(service)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"city": "Town 0"}, "rows 'X0' and 'X3' both have city='Town 0'"),
        ({"city": None}, "Row 'X3' has no value in the column 'city'"),
    ],
)
def test_a_kept_column_that_does_not_tell_rows_apart(
    database: Database, service: DevServer, out: Path, change: dict[str, Any], match: str
) -> None:
    """Known before anything is sent, unlike a key that is in the answers."""
    rows = [{**row, "city": f"Town {n}"} for n, row in enumerate(ROWS)]
    rows[3] |= change
    options: dict[str, Any] = {
        "output_key": "city",
        "output_columns": {"label": "output"},
        "keep_columns": ["city"],
    }
    refused(classify(out, requests=rows, **options), service, match)
    several: dict[str, Any] = {**options, "output_key": ["city", "iata"], "keep_columns": ["city", "iata"]}
    if change["city"]:
        assert tried(classify(out, requests=rows, **several))["table"]["rows"] == 5
        assert len(database.table()) == 5


def test_a_table_that_changes_while_the_job_runs(
    database: Database, service: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No retry follows, and after a clear the results are loaded; nothing is sent again."""
    plain = JobResults.finish

    def finish(self: JobResults, *arguments: Any) -> Any:
        database.run("CREATE TABLE labels (iata TEXT PRIMARY KEY)")
        return plain(self, *arguments)

    operator = classify(out)
    with monkeypatch.context() as patch:
        patch.setattr(JobResults, "finish", finish)
        with pytest.raises(
            AirflowFailException,
            match=rf"no column 'label'.* complete in {out}\. Mend the table or the task, and clear",
        ):
            tried(operator)
    database.run("DROP TABLE labels")
    before = created(service)
    assert tried(operator, 11, is_cleared=True)["table"]["rows"] == 5
    assert is_complete(database, out)
    assert created(service) == before == 1


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
def test_a_load_that_fails_is_done_by_the_next_try(
    database: Database, service: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """It reads no row, sends nothing, and loads what is there."""
    reads: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        reads.append(1)
        yield from ROWS

    operator = classify(out, OpenAIBatchDecoratedOperator, python_callable=rows, output_mode=mode)
    with monkeypatch.context() as patch:
        patch.setattr(RowValues, "read", went_away)
        for number in (1, 2):
            with pytest.raises(
                LoadFailed,
                match=rf"complete in {out}\. The next try loads them from there; nothing is sent or paid",
            ):
                tried(operator, number)
    before = service.stats()["requests"]
    assert tried(operator, 3)["table"] == {"table": "labels", "rows": 5, "loaded_before": False}
    assert service.stats()["requests"] == before
    assert len(reads) == 1
    assert is_complete(database, out)


def went_away(self: RowValues, given: Any) -> Any:
    raise ConnectionLost


class ConnectionLost(LoadFailed):
    def __init__(self) -> None:
        super().__init__("The database went away; the next try writes all rows")


def test_with_reuse_off_the_error_does_not_promise_too_much(
    database: Database, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RowValues, "read", went_away)
    with pytest.raises(LoadFailed, match=r"OpenAIBatchResultsToSqlOperator\. The next try sends and pays"):
        tried(classify(out, reuse=False))


def test_results_of_before_a_clear_are_not_taken_for_those_of_this_job(
    database: Database, service: DevServer, out: Path
) -> None:
    """The rows changed, the task was cleared, and its first try died before it had results."""
    tried(classify(out))
    changed = classify(out, requests=[{**row, "text": "another"} for row in ROWS], overwrite=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobResults, "finish", went_away)
        with pytest.raises(TypeError):
            tried(changed, 11, is_cleared=True)
    tried(changed, 12, is_cleared=True)
    assert created(service) == 2
    assert is_complete(database, out)
    assert all("another" in row[1] for row in database.table())


def test_a_stop_in_the_load_leaves_all_or_nothing(
    database: Database, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow lets the task run on for some seconds."""
    operator = classify(out, deferrable=False)
    plain = RowValues.read

    def read(self: RowValues, given: Any) -> Iterator[Any]:
        for number, found in enumerate(plain(self, given)):
            if number == 2:
                operator.on_kill()
            yield found

    monkeypatch.setattr(RowValues, "read", read)
    run_task(operator)
    assert is_complete(database, out)


def test_a_stop_before_the_load_begins_none(
    database: Database, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = classify(out, deferrable=False)
    plain = JobResults.finish

    def finish(self: JobResults, *arguments: Any) -> Any:
        found = plain(self, *arguments)
        operator.on_kill()
        return found

    monkeypatch.setattr(JobResults, "finish", finish)
    monkeypatch.setattr("airflow_provider_openai_batches.operators.base.task_state", lambda *_: "failed")
    with pytest.raises(TaskKilled):
        run_task(operator)
    assert not database.exists()


@only("sqlite", "postgres", "psycopg2", "mysql")  # DuckDB lets one process at a time have its file
@pytest.mark.parametrize(
    ("mode", "first", "stride"),
    [*(("upsert", first, 8) for first in (1, 4, 6, 7)), ("append", 2, 7), ("replace", 3, 9)],
)
def test_a_death_at_each_step(  # noqa: PLR0917 - what a death consists of
    database: Database, service: DevServer, tmp_path: Path, mode: str, first: int, stride: int
) -> None:
    """The rows are those that have no label yet, so they are others, or none, once the table is written."""
    database.run("CREATE TABLE places (iata TEXT, text TEXT)")
    for row in ROWS:
        database.run(f"INSERT INTO places VALUES ('{row['iata']}', '{row['text']}')")  # noqa: S608 - the test's own
    step = first
    while True:
        database.run("DROP TABLE IF EXISTS labels", "DROP TABLE IF EXISTS openai_batches_loads", KEYED)
        service.reset()
        service.settings(batch_seconds=0.05)
        out = tmp_path / f"out-{step}"
        options: dict[str, Any] = {"sql": NOT_ASKED, "sql_conn_id": "warehouse", "output_mode": mode}
        if not dies(out, options, 1, step):
            break
        assert database.table() == [] or is_complete(database, out), "a load is never seen half done"
        died_again = step % 3 == 0 and dies(out, options, 2, 1 + step % 7)
        tried(classify(out, **options), 2 + died_again)
        assert is_complete(database, out)
        assert service.stats()["paid_more_than_once"] == 0
        assert service.stats()["batches"]["running"] == 0
        step += stride
    assert step > 24, "the deaths were also in the load"
