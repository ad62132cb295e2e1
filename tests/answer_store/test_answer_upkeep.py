"""Compaction and forgetting lose nothing else, at whatever point they die and whoever works beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from storekit import LOG, answer, digest, find, rows_of, segments, write

from airflow_provider_openai_batches.answer_store import segments as form
from airflow_provider_openai_batches.answer_store.folder import StoreFolder
from airflow_provider_openai_batches.answer_store.segments import AnswerGroup, segments_in
from airflow_provider_openai_batches.answer_store.store import AnswerStore
from airflow_provider_openai_batches.answer_store.upkeep import Criteria, compact, forget, forget_broken, stat
from airflow_provider_openai_batches.answer_store.writing import SegmentsWriter
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["disk", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "answers") if request.param == "disk" else f"memory://answers/{uuid.uuid4()}"


def answers(numbers: range | list[int], created: float = 100.0) -> dict[int, bytes]:
    return {number: answer(number, created) for number in numbers}


def damage(folder: Path, name: str, number: int, created: int) -> None:
    """Change the text of one answer."""
    path = folder / form.data_file(name)
    path.write_bytes(
        path.read_bytes().replace(b'"%d of %d"' % (number, created), b'"%d OF %d"' % (number, created))
    )


def groups(uri: str) -> set[AnswerGroup]:
    folder = StoreFolder(uri)
    return {group for name in segments(uri) for group in form.load_index(folder, name, folder.sizes()).groups}


# What is in it.


def test_stat(uri: str) -> None:
    write(uri, "one", range(5), created=0, model="a")
    write(uri, "two", range(3, 5), created=300, model="b")
    write(uri, "three", [9], created=200, model=None)
    found = stat(uri)
    assert (found.segments, found.answers, found.oldest, found.newest) == (3, 8, 0, 300)
    assert found.models == {"a": 5, "b": 2, "": 1}
    assert found.bytes == sum(StoreFolder(uri).sizes().values())
    assert found.broken == {}


def test_stat_of_nothing(uri: str) -> None:
    found = stat(uri)
    assert (found.segments, found.answers, found.oldest, found.newest) == (0, 0, None, None)


@pytest.mark.parametrize("file_of", [form.index_file, form.data_file])
def test_stat_names_what_is_broken(uri: str, file_of: Callable[[str], str]) -> None:
    """A damaged index, or a file of answers that is not as long as it was."""
    write(uri, "one", [1])
    write(uri, "two", [2])
    name = segments(uri)[0]
    with StoreFolder(uri).create(file_of(name)) as file:
        file.write(b"x" * 30)
    found = stat(uri)
    assert (found.segments, found.answers) == (1, 1)
    assert set(found.broken) == {name}


# Compaction.


def test_small_segments_are_put_together(uri: str) -> None:
    """Each answer keeps its time, model and metadata."""
    for number in range(10):
        write(uri, f"job-{number}", range(number * 3, number * 3 + 3), created=number, model=f"m{number}")
    write(uri, "tagged", [50], created=50, metadata={"team": "a", "area": "b"})
    before = groups(uri)
    done = compact(uri)
    assert (done.before, done.after, done.dropped, done.broken) == (11, 1, 0, {})
    assert groups(uri) == before
    assert AnswerGroup("gpt-5-mini", 50.0, (("area", "b"), ("team", "a"))) in before
    assert find(uri, range(30)) == {n: answer(n, n // 3) for n in range(30)}
    assert len(StoreFolder(uri).sizes()) == 2


def test_a_second_compaction_has_nothing_to_do(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MAX_ANSWERS", 10)
    for number in range(10):
        write(uri, f"job-{number}", range(number * 3, number * 3 + 3))
    done = compact(uri)
    assert done.after == 3
    names = segments(uri)
    again = compact(uri)
    assert (again.before, again.after, again.dropped) == (3, 3, 0)
    assert segments(uri) == names


def test_older_doubles_are_dropped(uri: str) -> None:
    write(uri, "old", range(10), created=100)
    write(uri, "new", range(5, 15), created=200)
    write(uri, "same", range(8, 15), created=200)
    done = compact(uri)
    assert done.dropped == 12
    assert stat(uri).answers == 15
    assert find(uri, range(15)) == answers(range(5)) | answers(range(5, 15), 200)


def test_doubles_in_full_segments_are_dropped_too(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full segments without any stay as they are."""
    monkeypatch.setattr(form, "MAX_ANSWERS", 10)
    write(uri, "other", range(100, 110))
    write(uri, "old", range(10), created=100)
    write(uri, "new", range(5, 15), created=200)
    write(uri, "tie", range(10, 20), created=200)
    kept = {name for name in segments(uri) if name.startswith(("other", "new"))}
    compact(uri)
    assert {name for name in segments(uri) if name.startswith("other")} == {n for n in kept if n[0] == "o"}
    assert stat(uri).answers == 30
    assert find(uri, range(20)) == answers(range(5)) | answers(range(5, 20), 200)


def test_two_digests_with_one_first_half_are_no_doubles(uri: str) -> None:
    for number in range(2):
        with AnswerStore(uri, LOG).writer(f"job-{number}", created=number, metadata={}) as writer:
            writer.add(digest(1)[:8] + bytes([number] * 8), "m", b"%d" % number)
    assert compact(uri).dropped == 0
    assert stat(uri).answers == 2


def test_a_broken_segment_is_left_alone(tmp_path: Path) -> None:
    """Also one of which only a line is broken; and an older answer is not dropped for that line."""
    write(tmp_path, "old", range(5), created=100)
    write(tmp_path, "new", range(3, 8), created=200)
    write(tmp_path, "more", range(20, 25), created=200)
    write(tmp_path, "lost", range(30, 32), created=200)
    lost, new = (next(n for n in segments(tmp_path) if n.startswith(name)) for name in ("lost", "new"))
    (tmp_path / form.data_file(lost)).unlink()
    damage(tmp_path, new, 4, 200)
    done = compact(tmp_path)
    assert set(done.broken) == {lost, new}
    assert {lost, new} < set(segments(tmp_path))
    assert (done.before, done.after, done.dropped) == (3, 1, 0)
    found = find(tmp_path, range(25))
    assert found[4] == answer(4, 100)
    assert set(found) >= {*range(5), *range(20, 25)}


def test_an_answer_is_dropped_only_if_the_newer_one_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the newer one's segment is full, and so not written anew."""
    monkeypatch.setattr(form, "MAX_ANSWERS", 10)
    write(tmp_path, "old", range(10), created=100)
    write(tmp_path, "new", range(5, 15), created=200)
    new = next(name for name in segments(tmp_path) if name.startswith("new"))
    damage(tmp_path, new, 7, 200)
    done = compact(tmp_path)
    assert set(done.broken) == {new}
    assert find(tmp_path, [7]) == {0: answer(7, 100)}


@pytest.mark.parametrize("kind", ["compact", "forget"])
def test_what_dead_writers_left_is_deleted_after_a_day(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "one", [1])
    for name, age in (("old", 90_000), ("young", 60)):
        path = tmp_path / f"{name}-00000-0123456789abcdef.answers.jsonl"
        path.write_text("{}")
        moment = path.stat().st_mtime - age
        os.utime(path, (moment, moment))
    if kind == "compact":
        assert compact(tmp_path).abandoned == 1
    else:
        forget(tmp_path, Criteria(model="none"), only_count=True)
        assert len(list(tmp_path.iterdir())) == 4
        forget(tmp_path, Criteria(model="none"))
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["one", "one", "young"]


# Deaths and others at the same time.


class Died(BaseException):
    """The process ends here."""


def dies_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], None]:
    """Let the nth change of a store, and all that follow, not happen."""
    changes = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes >= step:
                raise Died
            return real(*args)

        return change

    monkeypatch.setattr(StoreFolder, "create", counted(StoreFolder.create))
    monkeypatch.setattr(StoreFolder, "remove", counted(StoreFolder.remove))
    return monkeypatch.undo


@pytest.mark.parametrize("kind", ["compact", "forget"])
def test_a_death_at_any_point_loses_nothing(uri: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, deaths = 0, 0
    while True:
        step += 1
        place = f"{uri}/{step}"
        write(place, "old", range(8), created=100)
        write(place, "new", range(5, 12), created=200)
        with SegmentsWriter(StoreFolder(place), "mixed") as writer:
            writer.add(digest(50), AnswerGroup("secret", 1.0), answer(50, 1))
            writer.add(digest(51), AnswerGroup("m", 1.0), answer(51, 1))
        undo = dies_at(monkeypatch, step)
        try:
            compact(place) if kind == "compact" else forget(place, Criteria(model="secret"))
            is_over = True
        except Died:
            is_over = False
        undo()
        wanted = answers(range(5)) | answers(range(5, 12), 200)
        assert stat(place).broken == {}
        assert find(place, range(12)) == wanted
        assert find(place, [51]) == {0: answer(51, 1)}
        compact(place) if kind == "compact" else forget(place, Criteria(model="secret"))
        assert find(place, range(12)) == wanted
        assert find(place, [51]) == {0: answer(51, 1)}
        assert bool(find(place, [50])) == (kind == "compact")
        if is_over:
            break
        deaths += 1
    assert deaths >= 4


def between(monkeypatch: pytest.MonkeyPatch, other: Callable[[], Any], *, is_early: bool = False) -> None:
    """
    Let something else happen once the new segments are written and before the old ones are deleted.

    :param is_early: once the old ones are read, and before the new ones appear.
    """
    real = SegmentsWriter.__exit__
    begun: list[int] = []

    def leave(self: Any, *error: Any) -> None:
        is_first = not begun
        begun.append(1)
        if is_first and is_early:
            other()
        real(self, *error)
        if is_first and not is_early:
            other()

    monkeypatch.setattr(SegmentsWriter, "__exit__", leave)


@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize("first", ["compact", "forget"])
def test_a_compaction_does_not_bring_back_what_was_forgotten(
    uri: str, first: str, is_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two begins first, and whether its segments are complete when the other one comes."""
    write(uri, "a", range(3), model="secret")
    write(uri, "b", range(3, 6), model="m")
    criteria = Criteria(model="secret")
    with SegmentsWriter(StoreFolder(uri), "mixed") as writer:
        for number, model in ((6, "m"), (7, "secret")):
            writer.add(digest(number), AnswerGroup(model, 100.0), answer(number, 100))
    if first == "compact":
        between(monkeypatch, lambda: forget(uri, criteria), is_early=is_early)
        compact(uri)
    else:
        between(monkeypatch, lambda: compact(uri), is_early=is_early)
        forget(uri, criteria)
    assert find(uri, range(8)) == answers([3, 4, 5, 6])
    assert len(StoreFolder(uri).sizes()) == 2 * len(segments(uri))


def test_two_compactions_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write(uri, f"job-{number}", range(number, number + 5), created=number)
    between(monkeypatch, lambda: compact(uri))
    compact(uri)
    assert find(uri, range(9)) == {n: answer(n, min(n, 4)) for n in range(9)}
    assert len(segments(uri)) == 1


def test_a_job_that_reads_while_another_compacts(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that are gone when their turn comes are looked for under new names, and not called broken."""
    for number in range(4):
        write(uri, f"job-{number}", range(number * 10, number * 10 + 10), created=number)
    for rows_before in (0, 1, 15):
        store = AnswerStore(uri, LOG)
        found = store.find(rows_of(range(40)))
        result = dict(next(found) for _ in range(rows_before))
        write(uri, f"extra-{rows_before}", [1000 + rows_before])
        compact(uri)
        result |= dict(found)
        assert result == {n: answer(n, n // 10) for n in range(40)}
        assert store.broken == []


def test_threads_that_write_read_compact_and_forget(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs at once, each reader finds what was there before all began, and nothing is broken."""
    monkeypatch.setattr(form, "MAX_ANSWERS", 20)
    write(uri, "base", range(50), created=100)
    errors: list[BaseException] = []

    def repeat(work: Callable[[int], None]) -> None:
        for number in range(15):
            try:
                work(number)
            except BaseException as error:  # noqa: BLE001 - the test fails with it
                errors.append(error)

    def writes(number: int) -> None:
        write(uri, f"job-{number % 4}", range(100 + number, 120 + number), created=number, model="secret")

    def reads(_: int) -> None:
        store = AnswerStore(uri, LOG)
        assert dict(store.find(rows_of(range(50)))) == answers(range(50))
        assert store.broken == []

    jobs = [writes, reads, reads, lambda _: compact(uri), lambda _: forget(uri, Criteria(model="secret"))]
    threads = [threading.Thread(target=repeat, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    forget(uri, Criteria(model="secret"))
    compact(uri)
    assert find(uri, range(140)) == answers(range(50))
    assert stat(uri).answers == 50


PROGRAM = """
import sys
import storekit
from airflow_provider_openai_batches.answer_store import segments, upkeep
segments.MAX_ANSWERS = 50
uri, work = sys.argv[1:]
for number in range(12):
    if work == "compact":
        upkeep.compact(uri)
    elif work == "forget":
        upkeep.forget(uri, upkeep.Criteria(model="secret"))
    else:
        storekit.write(uri, f"{work}-{number % 3}", range(40, 160), created=number, model="secret")
        storekit.write(uri, f"{work}-kept-{number}", range(number % 12, number % 12 + 5), created=200.0)
print("done")
"""


def test_processes_that_write_compact_and_forget(tmp_path: Path) -> None:
    """Two jobs, two compactions and one that forgets: in the end, what was to be kept is there."""
    uri = str(tmp_path / "answers")
    write(uri, "base", range(30), created=100)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    programs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, uri, work], env=environment, stdout=subprocess.PIPE)
        for work in ("one", "two", "compact", "compact", "forget")
    ]
    seen = 0
    while any(program.poll() is None for program in programs):
        store = AnswerStore(uri, LOG)
        found = dict(store.find(rows_of(range(30)), since=50))
        assert store.broken == []
        assert set(found) == set(range(30))
        assert all(body in {answer(row, 100), answer(row, 200)} for row, body in found.items())
        seen += 1
    assert [program.communicate()[0] for program in programs] == [b"done\n"] * 5
    assert seen
    forget(uri, Criteria(model="secret"))
    compact(uri)
    assert find(uri, range(200)) == answers(range(30)) | answers(range(16), 200)
    assert stat(uri).answers == 30


def test_a_segment_that_is_completed_while_the_store_is_listed(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing may show its index and not yet its answers, which were there before."""
    write(uri, "one", range(3))
    write(uri, "two", range(3, 6))
    real = StoreFolder.sizes
    listings: list[int] = []

    def early(self: StoreFolder) -> dict[str, int]:
        sizes = real(self)
        if not listings:
            del sizes[form.data_file(segments_in(sizes)[1])]
        listings.append(1)
        return sizes

    monkeypatch.setattr(StoreFolder, "sizes", early)
    store = AnswerStore(uri, LOG)
    assert dict(store.find(rows_of(range(6)))) == answers(range(6))
    assert store.broken == []
    listings.clear()
    assert stat(uri).broken == {}


# Forgetting.


@pytest.fixture
def mixed(uri: str) -> str:
    write(uri, "a", range(3), created=100, model="m1", metadata={"team": "x"})
    write(uri, "b", range(3, 6), created=200, model="m2", metadata={"team": "y"})
    with SegmentsWriter(StoreFolder(uri), "c") as writer:
        for number in range(6, 12):
            group = AnswerGroup(f"m{number % 2 + 1}", 100.0 * (number - 5), (("team", "xy"[number % 2]),))
            writer.add(digest(number), group, answer(number, 100))
    return uri


@pytest.mark.parametrize(
    ("criteria", "forgotten", "rewritten"),
    [
        (Criteria(before=200), {0, 1, 2, 6}, 2),
        (Criteria(model="m1"), {0, 1, 2, 6, 8, 10}, 2),
        (Criteria(metadata=("team", "y")), {3, 4, 5, 7, 9, 11}, 2),
        (Criteria(before=350, model="m1"), {0, 1, 2, 6, 8}, 2),
        (Criteria(before=350, metadata=("team", "y"), model="m2"), {3, 4, 5, 7}, 2),
        (Criteria(before=100), set(), 0),
        (Criteria(model="m"), set(), 0),
        (Criteria(metadata=("area", "y")), set(), 0),
    ],
)
def test_forget(mixed: str, criteria: Criteria, forgotten: set[int], rewritten: int) -> None:
    """All that is given has to apply; what stays keeps its group; other segments are not touched."""
    names = set(segments(mixed))
    planned = forget(mixed, criteria, only_count=True)
    assert (planned.answers, planned.segments) == (len(forgotten), rewritten)
    assert set(segments(mixed)) == names
    before = groups(mixed)
    done = forget(mixed, criteria)
    assert (done.answers, done.segments) == (len(forgotten), rewritten)
    assert set(find(mixed, range(12))) == set(range(12)) - forgotten
    assert groups(mixed) == {group for group in before if not criteria.fits(group)}
    assert len(names - set(segments(mixed))) == rewritten


def test_forget_needs_a_criterion() -> None:
    with pytest.raises(InvalidInputError, match="age, model or metadata"):
        Criteria()


def test_forget_leaves_broken_segments_alone(tmp_path: Path) -> None:
    """And says which they are: what is in them may be what was to be forgotten."""
    write(tmp_path, "lost", range(3), model="secret")
    with SegmentsWriter(StoreFolder(tmp_path), "mixed") as writer:
        for number, model in ((5, "m"), (6, "secret"), (7, "m")):
            writer.add(digest(number), AnswerGroup(model, 100.0), answer(number, 100))
    lost, half = segments(tmp_path)
    (tmp_path / form.data_file(lost)).unlink()
    damage(tmp_path, half, 7, 100)
    done = forget(tmp_path, Criteria(model="secret"))
    assert set(done.broken) == {lost, half}
    assert (done.answers, done.segments) == (0, 0)
    assert set(segments(tmp_path)) == {lost, half}


def test_what_is_broken_is_forgotten_on_demand(tmp_path: Path) -> None:
    """Good lines beside it stay; so does a segment of a later release."""
    for name in ("good", "index", "lost", "line", "short", "later"):
        write(tmp_path, name, range(5), created=len(name))
    good, index, later, line, lost, short = sorted(segments(tmp_path))
    (tmp_path / form.index_file(index)).write_bytes(b"x")
    (tmp_path / form.data_file(lost)).unlink()
    damage(tmp_path, line, 3, 4)
    data = tmp_path / form.data_file(short)
    data.write_bytes(data.read_bytes()[:-10])
    content = (tmp_path / form.index_file(later)).read_bytes()
    decoded = form.decode_index(content)
    newer = msgspec.structs.replace(decoded, version=form.VERSION + 1)
    (tmp_path / form.index_file(later)).write_bytes(form.encode_index(newer))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    planned = forget_broken(tmp_path, only_count=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    done = forget_broken(tmp_path)
    assert planned == done
    assert (done.answers, done.segments) == (7, 4)
    assert set(done.broken) == {later}
    assert {good, later} < set(segments(tmp_path))
    assert not {index, line, lost, short} & set(segments(tmp_path))
    assert stat(tmp_path).answers == 5 + 4 + 4
    assert forget_broken(tmp_path).segments == 0
