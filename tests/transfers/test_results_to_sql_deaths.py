"""Whatever dies in a load, and wherever: the table is as before, and after the next try as if loaded once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from databasekit import WITH_A_SERVER, only
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resultskit import landed, row, write

from airflow_provider_openai_batches.exceptions import LoadFailed
from airflow_provider_openai_batches.sql import copying, insert
from airflow_provider_openai_batches.sql.columns import RowValues
from airflow_provider_openai_batches.sql.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transfers.conftest import Database

KEYED = "CREATE TABLE labels (custom_id TEXT PRIMARY KEY, label TEXT)"
LOOSE = "CREATE TABLE labels (custom_id TEXT, label TEXT)"
BEFORE = {"r1": "old", "z": "stays"}
ROWS = {"r0": "yes", "r1": "no", "r2": "maybe", "r3": None, "r4": "yes"}
REFUSED = 3


def job(folder: Path, rows: dict[str, Any], name: str = "out") -> str:
    return landed(
        folder / name, [row(custom_id, label) for custom_id, label in rows.items()], rows_per_part=2
    )


def fresh(database: Database, mode: str, before: dict[str, Any] | None) -> None:
    """An own table with some rows, or none."""
    database.run("DROP TABLE IF EXISTS labels", "DROP TABLE IF EXISTS openai_batches_loads")
    if before is not None:
        database.run(LOOSE if mode == "append" else KEYED)
        rows = ", ".join(f"('{custom_id}', '{label}')" for custom_id, label in before.items())
        if rows:
            database.run(f"INSERT INTO labels VALUES {rows}")  # noqa: S608 - the test's own


def loaded_once(mode: str, before: dict[str, Any] | None, rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the table is to be in the end."""
    kept = [] if mode == "replace" else list((before or {}).items())
    if mode == "upsert":
        kept = [(custom_id, label) for custom_id, label in kept if custom_id not in rows]
    return sorted([*kept, *rows.items()], key=repr)


def contents(database: Database) -> list[tuple[Any, ...]] | None:
    return database.table() if database.exists() else None


def in_a_process(work: Callable[[], object]) -> int:
    """Do this in a process of its own, and return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the threads of this process stay behind
        child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        try:
            work()
            code = 0
        except LoadFailed as error:
            code = REFUSED
            print(error, file=sys.stderr)  # noqa: T201 - for the one who reads a failure of the test
        sys.stderr.flush()
    os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a process; None if it was killed."""
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def small_steps(monkeypatch: Any = None) -> None:
    """Two rows at a time, or one, rather than thousands."""
    for module, name, value in ((insert, "_CHUNK_ROWS", 2), (copying, "_BLOCK_BYTES", 1)):
        monkeypatch.setattr(module, name, value)


def dies_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Kill this process at a step: a statement, some rows, or a commit; before it, or after it."""
    count = 0

    def pass_by() -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Any) -> Any:
        def stepped(*arguments: Any) -> Any:
            pass_by()
            found = function(*arguments)
            pass_by()
            return found

        return stepped

    def blocks(rows: Any) -> Iterator[bytes]:
        for block in plain(rows):
            pass_by()
            yield block

    plain = copying._blocks
    patch.setattr(copying, "_blocks", blocks)
    for name in ("run", "run_many", "commit"):
        patch.setattr(Session, name, around(getattr(Session, name)))


def load_and_die(uri: str, mode: str, step: int) -> None:
    patch = pytest.MonkeyPatch()
    small_steps(patch)
    dies_at(step, patch)
    write(uri, mode=mode)


def check_a_death(  # noqa: PLR0917 - what a death consists of
    database: Database, uri: str, mode: str, step: int, before: dict[str, Any] | None, rows: dict[str, Any]
) -> bool:
    """Load with a death, look, and load again; return whether there was a death at this step."""
    fresh(database, mode, before)
    was = contents(database)
    code = ended(in_a_process(lambda: load_and_die(uri, mode, step)))
    assert code in {None, 0}
    wanted = loaded_once(mode, before, rows)
    allowed = [was, wanted] if code is None else [wanted]
    if database.kind == "mysql" and was is None:
        allowed.append([])  # what makes a table ends a transaction there
    assert contents(database) in allowed, "a load is never seen half done"
    for _ in range(2):
        write(uri, mode=mode)
        assert database.table() == wanted
    return code is None


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
@pytest.mark.parametrize("before", [BEFORE, None], ids=["a table", "no table"])
def test_a_death_at_each_step(
    database: Database, tmp_path: Path, mode: str, before: dict[str, Any] | None
) -> None:
    """Killed with SIGKILL before and after every statement, between rows, and around the commit."""
    uri = job(tmp_path, ROWS)
    step = 1
    while check_a_death(database, uri, mode, step, before, ROWS):
        step += 4 if database.kind == "duckdb" else 1  # it takes a second to open one
    assert step > 10, "the deaths were in the load"


LABEL = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
KEYS = st.sampled_from([f"r{number}" for number in range(8)])


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.dictionaries(KEYS, LABEL, max_size=8),
    before=st.none() | st.dictionaries(KEYS, st.sampled_from(["a", "b"]), max_size=4),
    mode=st.sampled_from(["upsert", "append", "replace"]),
    step=st.integers(1, 40),
)
def test_any_rows_any_mode_any_death(  # noqa: PLR0917 - as above
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, Any],
    before: dict[str, Any] | None,
    mode: str,
    step: int,
) -> None:
    """The table is as if loaded once."""
    if not rows and before is None:
        rows = {"r0": None}  # a table that is to be made needs a row to know its types
    uri = job(tmp_path_factory.mktemp("job"), rows)
    check_a_death(database, uri, mode, step, before, rows)


@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
@pytest.mark.parametrize("before", [BEFORE, None], ids=["a table", "no table"])
def test_two_tries_at_the_same_time(
    database: Database, tmp_path: Path, mode: str, before: dict[str, Any] | None
) -> None:
    """As when a worker is thought to be lost, and is not. One may be told to try again."""
    uri = job(tmp_path, {f"r{number}": "yes" for number in range(300)})
    rows = {f"r{number}": "yes" for number in range(300)}
    for _ in range(3):
        fresh(database, mode, before)
        children = [in_a_process(lambda: write(uri, mode=mode)) for _ in range(2)]
        codes = [ended(child) for child in children]
        assert set(codes) <= {0, REFUSED}, codes
        write(uri, mode=mode)
        assert database.table() == loaded_once(mode, before, rows)


def test_two_tries_of_an_append_to_a_table_with_a_key(database: Database, tmp_path: Path) -> None:
    """The second one waits for the first, and then finds that there is nothing to do."""
    rows = {f"r{number}": "yes" for number in range(3000)}
    uri = job(tmp_path, rows)
    for _ in range(3):
        fresh(database, "upsert", {})
        write(job(tmp_path, {"z": "yes"}, f"first{_}"), mode="append")
        children = [in_a_process(lambda: write(uri, mode="append")) for _ in range(2)]
        codes = [ended(child) for child in children]
        assert codes == [0, 0] or database.server is None
        assert write(uri, mode="append") == {"table": "labels", "rows": 3000, "loaded_before": True}
        assert len(database.table()) == 3001


def test_two_jobs_into_one_new_table(database: Database, tmp_path: Path) -> None:
    """As the tasks of one DAG do; both make the table, and one of them finds it made."""
    uris = [job(tmp_path, {f"{name}{number}": "yes" for number in range(50)}, name) for name in ("a", "b")]
    children = [in_a_process(lambda uri=uri: write(uri, mode="append")) for uri in uris]  # type: ignore[misc]
    codes = [ended(child) for child in children]
    if database.kind in {"postgres", "psycopg2", "mysql"}:
        assert codes == [0, 0]
    for uri in uris:
        write(uri, mode="append")
    assert len(database.table()) == 100


@only(*WITH_A_SERVER)
@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
@pytest.mark.parametrize("before", [BEFORE, None], ids=["a table", "no table"])
def test_a_connection_that_breaks_off(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    before: dict[str, Any] | None,
) -> None:
    uri = job(tmp_path, ROWS)
    fresh(database, mode, before)
    with monkeypatch.context() as patch:
        small_steps(patch)
        break_off_after(3, patch, database.break_off)
        with pytest.raises(
            LoadFailed, match=r"of 'warehouse' ended the load: .*Nothing of it is in labels; the next"
        ):
            write(uri, mode=mode)
    if not (database.kind == "mysql" and before is None):
        assert contents(database) == (None if before is None else sorted(before.items()))
    write(uri, mode=mode)
    assert database.table() == loaded_once(mode, before, ROWS)


def break_off_after(rows: int, patch: pytest.MonkeyPatch, how: Callable[[], object]) -> None:
    """Do this as so many rows are read for a table that is there."""
    plain = RowValues.read

    def read(self: RowValues, results: Any) -> Iterator[Any]:
        for number, found in enumerate(plain(self, results)):
            if number == rows and len(self._columns) > 1:  # the first reading, for types, has one
                how()
            yield found

    patch.setattr(RowValues, "read", read)


@only(*WITH_A_SERVER)
def test_a_server_that_dies(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = database.server
    assert server
    uri = job(tmp_path, ROWS)
    fresh(database, "upsert", BEFORE)
    with monkeypatch.context() as patch:
        small_steps(patch)
        break_off_after(3, patch, server.kill)
        with pytest.raises(LoadFailed, match="ended the load"):
            write(uri)
    with pytest.raises(LoadFailed, match="cannot be reached"):
        write(uri)
    server.start()
    assert database.table() == sorted(BEFORE.items())
    write(uri)
    assert database.table() == loaded_once("upsert", BEFORE, ROWS)


@only(*WITH_A_SERVER)
def test_a_connection_that_breaks_off_in_the_commit(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether the rows are there; the next try does the right thing either way."""
    uri = job(tmp_path, ROWS)
    fresh(database, "append", BEFORE)
    plain = Session.commit
    for commits in (True, False):
        with monkeypatch.context() as patch:

            def commit(self: Session, commits: bool = commits) -> None:
                if commits:
                    plain(self)
                database.break_off()
                plain(self)
                self.run("SELECT 1")  # where a commit of nothing is not sent

            patch.setattr(Session, "commit", commit)
            with pytest.raises(LoadFailed, match=r"as the load was committed: .* all of its rows or none"):
                write(uri, mode="append")
        write(uri, mode="append")
        assert database.table() == loaded_once("append", BEFORE, ROWS)
        fresh(database, "append", BEFORE)


@only(*WITH_A_SERVER)
def test_a_worker_that_is_cut_off_is_noticed(database: Database) -> None:
    """Its transaction would hold its locks for hours."""
    with Session("warehouse") as session:
        session.rollback()
        setting = (
            "@@SESSION.wait_timeout" if database.kind == "mysql" else "current_setting('tcp_keepalives_idle')"
        )
        assert int(session.run(f"SELECT {setting}")[0][0]) in {60, 600}


@only(*WITH_A_SERVER)
def test_a_lock_that_another_program_holds_may_pass(database: Database, tmp_path: Path) -> None:
    """So the task fails in a way that a retry follows."""
    before = {"z": "stays"}
    fresh(database, "upsert", before)
    brief = {"mysql": "SET GLOBAL innodb_lock_wait_timeout = 1"}
    usual = {"mysql": "SET GLOBAL innodb_lock_wait_timeout = 50"}
    database.run(brief.get(database.kind, "ALTER ROLE postgres SET lock_timeout = '300ms'"))
    uri = job(tmp_path, ROWS)
    try:
        with database.connected() as other:
            other.cursor().execute("INSERT INTO labels VALUES ('r2', 'not yet there')")
            for mode in ("upsert", "append", "replace"):
                with pytest.raises(LoadFailed, match=r"(?i)lock.* Nothing of it is in labels; the next try"):
                    write(uri, mode=mode)
    finally:
        database.run(usual.get(database.kind, "ALTER ROLE postgres RESET lock_timeout"))
    write(uri)
    assert database.table() == loaded_once("upsert", before, ROWS)
