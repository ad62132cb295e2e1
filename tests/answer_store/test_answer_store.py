"""The newest answer to exactly a row's request is found, and damage costs no more than what is damaged."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import subprocess
import sys
import tracemalloc
import uuid
from array import array
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
import pytest
from storekit import ENDPOINT, LOG, answer, digest, find, request, rows_of, segments, write

from airflow_provider_openai_batches.answer_store import folder, lookup, reading, writing
from airflow_provider_openai_batches.answer_store import segments as form
from airflow_provider_openai_batches.answer_store.digests import RowDigests, digest_of
from airflow_provider_openai_batches.answer_store.folder import StoreFolder
from airflow_provider_openai_batches.answer_store.segments import AnswerGroup
from airflow_provider_openai_batches.answer_store.store import AnswerStore
from airflow_provider_openai_batches.answer_store.writing import SegmentsWriter
from airflow_provider_openai_batches.exceptions import BrokenSegmentError, InvalidInputError
from airflow_provider_openai_batches.storage import whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["disk", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that nobody has written to, on a disk and elsewhere."""
    return (
        str(tmp_path / "new" / "answers") if request.param == "disk" else f"memory://answers/{uuid.uuid4()}"
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of ten answers."""
    monkeypatch.setattr(form, "MAX_ANSWERS", 10)


def expected(numbers: Iterator[int] | range | list[int], created: float = 100.0) -> dict[int, bytes]:
    return {row: answer(number, created) for row, number in enumerate(numbers)}


# Digests.


def test_a_digest_is_the_first_half_of_sha256() -> None:
    """Stores outlive releases, so it never changes."""
    wanted = hashlib.sha256(b'/v1/responses\n{"input":"x"}').digest()[:16]
    assert digest_of("/v1/responses", b'{"input":"x"}') == wanted


def test_endpoint_and_body_both_count() -> None:
    assert digest_of("/v1/responses", b"{}") != digest_of("/v1/embeddings", b"{}")
    assert digest_of("/v1/responses", b"{}") != digest_of("/v1/responses", b'{"a":1}')


def test_repeats_are_pairs_of_row_and_first_row() -> None:
    """Rows that did not come leave no gap in the pairs."""
    rows = RowDigests(ENDPOINT)
    for row, number in ((2, 7), (3, 8), (5, 7), (9, 9), (11, 8), (12, 7)):
        rows.add(row, request(number))
    assert rows.repeats().tolist() == [5, 2, 11, 3, 12, 2]
    assert rows.repeats().typecode == "I"
    assert len(rows) == 6


def test_no_rows_have_no_repeats(uri: str) -> None:
    rows = RowDigests(ENDPOINT)
    assert rows.repeats().tolist() == []
    assert list(AnswerStore(uri, LOG).find(rows)) == []


def test_rows_cost_at_most_24_bytes() -> None:
    rows = rows_of(range(100_000))
    assert sum(map(sys.getsizeof, rows._buckets)) <= 24 * 100_000


# Finding.


def test_each_row_gets_the_answer_to_its_request(uri: str) -> None:
    write(uri, "one", range(0, 300, 2))
    write(uri, "two", range(1, 300, 2))
    assert find(uri, range(300)) == expected(range(300))
    assert find(uri, range(300, 310)) == {}


def test_an_empty_store_has_nothing(uri: str) -> None:
    assert find(uri, range(10)) == {}


def test_rows_with_equal_bodies_each_get_the_answer(uri: str) -> None:
    write(uri, "one", [1, 2])
    assert find(uri, [2, 1, 2, 3, 2]) == {row: answer(n, 100) for row, n in ((0, 2), (1, 1), (2, 2), (4, 2))}


def test_another_endpoint_is_another_request(uri: str) -> None:
    write(uri, "one", [1])
    rows = RowDigests("/v1/chat/completions")
    rows.add(0, request(1))
    assert list(AnswerStore(uri, LOG).find(rows)) == []


@pytest.mark.parametrize("order", [(100, 200, 300), (300, 200, 100), (200, 300, 100)])
def test_the_newest_answer_is_used(uri: str, order: tuple[int, ...]) -> None:
    for created in order:
        write(uri, f"of-{created}", range(5), created=created)
    assert find(uri, range(5)) == expected(range(5), 300)


def test_the_newest_answer_of_mixed_segments_is_used(uri: str) -> None:
    """A segment that was put together has answers of several times, and may overlap with any other one."""
    mixed: list[list[tuple[int, int]]] = [
        [(0, 500), (1, 100), (2, 300), (3, 50)],
        [(0, 400), (1, 450), (2, 200), (4, 1)],
        [(2, 350), (1, 350), (0, 350), (3, 350)],
    ]
    for number, answers in enumerate(mixed):
        with SegmentsWriter(StoreFolder(uri), f"mixed-{number}") as writer:
            for n, created in answers:
                writer.add(digest(n), AnswerGroup("m", created), answer(n, created))
    newest = {0: 500, 1: 450, 2: 350, 3: 350, 4: 1}
    assert find(uri, range(6)) == {n: answer(n, created) for n, created in newest.items()}
    assert set(find(uri, range(6), since=360)) == {0, 1}
    assert find(uri, [3, 3, 4], since=2) == {0: answer(3, 350), 1: answer(3, 350)}


def test_answers_that_are_too_old_are_not_used(uri: str) -> None:
    write(uri, "old", range(4), created=100)
    write(uri, "new", range(2), created=200)
    assert set(find(uri, range(4), since=100)) == {0, 1, 2, 3}
    assert set(find(uri, range(4), since=100.5)) == {0, 1}
    assert find(uri, range(4), since=201) == {}


def test_a_segment_is_cut_at_each_of_its_bounds(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MAX_ANSWERS", 10)
    write(uri, "many", range(25))
    assert len(segments(uri)) == 3
    monkeypatch.setattr(form, "MAX_DATA_BYTES", 1)
    write(uri, "long", range(25, 29))
    assert len(segments(uri)) == 7
    monkeypatch.setattr(form, "MAX_DATA_BYTES", 1 << 20)
    monkeypatch.setattr(form, "MAX_GROUPS", 1)
    with SegmentsWriter(StoreFolder(uri), "groups") as writer:
        for number in range(29, 33):
            writer.add(digest(number), AnswerGroup(f"model {number}", 100), answer(number, 100))
    assert len(segments(uri)) == 9
    assert find(uri, range(33)) == expected(range(33))


def test_more_rows_than_are_compared_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number of steps gives the same."""
    write(uri, "one", range(0, 500, 3))
    write(uri, "two", range(0, 500, 5), created=200)
    results = []
    for at_once in (1, 2, 50, 499, 10_000):
        monkeypatch.setattr(lookup, "_ROWS_AT_ONCE", at_once)
        results.append(find(uri, [*range(500), *range(250)]))
    assert all(result == results[0] for result in results)
    assert len(results[0]) == sum(1 for n in [*range(500), *range(250)] if n % 3 == 0 or n % 5 == 0)


def test_find_counts_answers(uri: str) -> None:
    write(uri, "one", range(7))
    write(uri, "two", range(5))
    store = AnswerStore(uri, LOG)
    list(store.find(rows_of([1])))
    assert (store.answers, store.broken) == (12, [])


def test_two_digests_with_the_same_first_half(uri: str) -> None:
    """They are told apart by the rest, and neither is broken."""
    other = digest(1)[:8] + b"\0" * 8
    with AnswerStore(uri, LOG).writer("one", created=1, metadata={}) as writer:
        writer.add(other, "m", b'{"other":1}')
    store = AnswerStore(uri, LOG)
    assert list(store.find(rows_of([1]))) == []
    assert store.broken == []


def test_long_answers_take_no_more_memory(tmp_path: Path) -> None:
    """Of 40 MB that are found, a few MB are in memory at any time; so it is while they are written."""
    tracemalloc.start()
    try:
        with AnswerStore(tmp_path, LOG).writer("one", created=1, metadata={}) as writer:
            for number in range(200):
                writer.add(digest(number), "m", b'"%b"' % (b"%d" % number * 70_000))
        rows, found = rows_of(range(200)), 0
        for _, body in AnswerStore(tmp_path, LOG).find(rows):
            found += len(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found > 30_000_000
    assert peak < 8_000_000


# Writing.


def test_a_writer_replaces_what_it_wrote_before(uri: str, small: None) -> None:
    write(uri, "job", range(35))
    write(uri, "job-2", [50])
    write(uri, "job", range(100, 112), created=200)
    assert len(segments(uri)) == 3
    assert len(StoreFolder(uri).sizes()) == 6
    assert find(uri, [1, 50, 105, 111]) == {1: answer(50, 100), 2: answer(105, 200), 3: answer(111, 200)}


def test_a_writer_that_fails_keeps_what_was_there(uri: str, small: None) -> None:
    """Of the new answers, the segments that were full are good; nothing else is left of them."""
    write(uri, "job", range(5))
    store = AnswerStore(uri, LOG)

    def fail() -> None:
        with store.writer("job", created=200, metadata={}) as writer:
            for number in range(100, 115):
                writer.add(digest(number), None, answer(number, 200))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(StoreFolder(uri).sizes()) == 4
    assert set(find(uri, [*range(5), *range(100, 115)])) == set(range(15))


def test_a_writer_without_answers_writes_nothing(uri: str) -> None:
    write(uri, "job", [])
    assert StoreFolder(uri).sizes() == {}


def test_a_segment_without_its_index_does_not_exist(uri: str) -> None:
    """Its writer is at work or died."""
    write(uri, "job", range(5))
    StoreFolder(uri).remove(form.index_file(segments(uri)[0]))
    store = AnswerStore(uri, LOG)
    assert list(store.find(rows_of(range(5)))) == []
    assert store.broken == []


def test_an_answer_that_was_written_twice(uri: str) -> None:
    """One job may ask the same thing twice; the first answer of a segment is kept."""
    with AnswerStore(uri, LOG).writer("job", created=1, metadata={}) as writer:
        for body in (b'{"a":1}', b'{"a":2}'):
            writer.add(digest(1), "m", body)
            writer.add(digest(2), "m", body)
    assert dict(AnswerStore(uri, LOG).find(rows_of([2, 1]))) == {0: b'{"a":1}', 1: b'{"a":1}'}
    index = form.load_index(StoreFolder(uri), segments(uri)[0], StoreFolder(uri).sizes())
    assert len(index) == 2


def test_an_answer_that_is_too_long_is_left_out(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MAX_LINE_BYTES", 80)
    with AnswerStore(uri, LOG).writer("job", created=1, metadata={}) as writer:
        writer.add(digest(1), "m", b'"%b"' % (b"x" * 80))
        writer.add(digest(2), "m", b'"short"')
    assert dict(AnswerStore(uri, LOG).find(rows_of([1, 2]))) == {1: b'"short"'}


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\nb", "x" * 200])
def test_a_name_that_is_no_files(uri: str, name: str) -> None:
    store = AnswerStore(uri, LOG)
    with (
        pytest.raises(InvalidInputError, match="cannot be written"),
        store.writer(name, created=1, metadata={}),
    ):
        pass


def test_metadata_that_no_service_takes(uri: str) -> None:
    store = AnswerStore(uri, LOG)
    with (
        pytest.raises(InvalidInputError, match="Shorten metadata"),
        store.writer("job", created=1, metadata={"a": "x" * 40_000}) as writer,
    ):
        writer.add(digest(1), "m", b"{}")
    assert StoreFolder(uri).sizes() == {}


@pytest.mark.parametrize("umask", [0, 0o777])
def test_only_the_owner_may_read(tmp_path: Path, umask: int) -> None:
    """Whatever the umask; a directory that was there stays as it is."""
    code = f"""
import os
os.umask({umask})
import storekit
storekit.write({str(tmp_path / "deep" / "store")!r}, "job", range(3))
storekit.AnswerStore({str(tmp_path / "deep" / "store")!r}, storekit.LOG).check()
"""
    tmp_path.chmod(0o755)
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}
    )

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    files = list((tmp_path / "deep" / "store").iterdir())
    assert len(files) == 2
    assert {mode(path) for path in files} == {0o600}
    assert mode(tmp_path / "deep") == mode(tmp_path / "deep" / "store") == 0o700
    assert mode(tmp_path) == 0o755


def test_files_that_are_not_private_are_as_before(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with whole(tmp_path / "a" / "b") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755


# Checking.


def test_a_good_store_is_checked_and_left_as_it_was(uri: str) -> None:
    AnswerStore(uri, LOG).check()
    assert StoreFolder(uri).sizes() == {}
    write(uri, "one", [1])
    before = StoreFolder(uri).sizes()
    AnswerStore(uri, LOG).check()
    assert StoreFolder(uri).sizes() == before


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidInputError, match="answers_uri") as caught:
            AnswerStore(place, LOG).check()
        assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError, RuntimeError])
@pytest.mark.parametrize("method", ["put_file", "ls", "cat_file"])
def test_an_object_store_that_refuses(
    method: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says itself is the cause, so that the task knows whether to try again."""
    store = AnswerStore(f"memory://answers/{uuid.uuid4()}", LOG)

    def refuse(*_: Any, **__: Any) -> None:
        raise error("denied")

    monkeypatch.setattr(type(store._folder.path.fs), method, refuse)
    with pytest.raises(InvalidInputError, match="answers_uri") as caught:
        store.check()
    if (method, error) != ("ls", FileNotFoundError):  # that is how a store says that there is nothing
        assert isinstance(caught.value.__cause__, error)
        assert "denied" in str(caught.value)


def test_a_disk_that_fails_while_rows_are_looked_for(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows may be in there: to ask them for money would be wrong, so the task fails."""
    write(uri, "one", range(3))

    def fail(*_: Any) -> bytes:
        raise OSError("the disk fails")

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(type(StoreFolder("memory://x").path.fs), "cat_file", fail)
    with pytest.raises(InvalidInputError, match="the disk fails"):
        find(uri, range(3))


# Broken segments.


def damage_index(folder: Path, name: str) -> None:
    path = folder / form.index_file(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate_index(folder: Path, name: str) -> None:
    path = folder / form.index_file(name)
    path.write_bytes(path.read_bytes()[:-20])


def empty_index(folder: Path, name: str) -> None:
    (folder / form.index_file(name)).write_bytes(b"")


def lose_answers(folder: Path, name: str) -> None:
    (folder / form.data_file(name)).unlink()


def truncate_answers(folder: Path, name: str) -> None:
    path = folder / form.data_file(name)
    path.write_bytes(path.read_bytes()[:-20])


def shift_answers(folder: Path, name: str) -> None:
    path = folder / form.data_file(name)
    path.write_bytes(b" " + path.read_bytes()[:-1])


def damage_answer(folder: Path, name: str) -> None:
    """A letter of a text, so that the line is still JSON with the right key."""
    path = folder / form.data_file(name)
    path.write_bytes(path.read_bytes().replace(b"of 200", b"of 900"))


def link_answers(folder: Path, name: str) -> None:
    """A file that is a link leads elsewhere."""
    path = folder / form.data_file(name)
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "harm",
    [
        damage_index,
        truncate_index,
        empty_index,
        lose_answers,
        truncate_answers,
        shift_answers,
        damage_answer,
        link_answers,
    ],
)
def test_a_broken_segment_is_left_out(harm: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is named once and counted; what is elsewhere is used, also an older answer."""
    folder = tmp_path / "answers"
    write(folder, "good", range(3), created=100)
    write(folder, "bad", range(2, 6), created=200)
    bad = next(name for name in segments(folder) if name.startswith("bad"))
    harm(folder, bad)
    store = AnswerStore(folder, LOG)
    assert dict(store.find(rows_of(range(6)))) == expected(range(3))
    assert store.broken == [bad]
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [bad in message for message in messages] == [True]


def forged(**changes: Any) -> bytes:
    """An index that somebody wrote, with a good checksum."""
    column = form.bytes_of(array("Q", [1, 2]))
    half = form.bytes_of(array("I", [1, 2]))
    index = form.SegmentIndex(1, 4, [AnswerGroup("m", 1.0)], column, column, column, half, half, b"\0" * 4)
    return form.encode_index(msgspec.structs.replace(index, **changes))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (forged(firsts=b"\0" * 9), "differ in length"),
        (forged(seconds=b""), "differ in length"),
        (
            forged(**dict.fromkeys(("firsts", "seconds", "offsets", "lengths", "checksums", "numbers"), b"")),
            "differ",
        ),
        (forged(numbers=b"\1\0\0\0"), "group"),
        (forged(groups=[AnswerGroup("m", 1.0)] * 2, numbers=b"\2\0\0\0"), "group"),
        (forged(groups=[]), "group"),
        (forged(groups=[AnswerGroup("m", float("nan"))]), "time"),
        (forged(version=2), "version 2"),
        (b"", "damaged"),
        (b"\0\0\0\0", "damaged"),
        (b"\xc1" + crc32(b"\xc1").to_bytes(4, "big"), "damaged"),
    ],
)
def test_an_index_that_cannot_be(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenSegmentError, match=reason):
        form.decode_index(data)


def test_an_index_that_is_too_large_is_not_read(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(uri, "one", [1])
    monkeypatch.setattr(form, "_MAX_INDEX_BYTES", 50)
    monkeypatch.setattr(StoreFolder, "read", lambda *_: pytest.fail("it is read"))
    store = AnswerStore(uri, LOG)
    assert list(store.find(rows_of([1]))) == []
    assert store.broken == segments(uri)


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": form.bytes_of(array("Q", [1 << 60]))},
        {"lengths": form.bytes_of(array("I", [(1 << 32) - 1]))},
        {"offsets": form.bytes_of(array("Q", [1]))},
    ],
)
def test_an_index_that_leads_out_of_its_file(
    tmp_path: Path, changes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read there, and no memory is taken for it."""
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("it is read"))
    write(tmp_path, "one", [1])
    name = segments(tmp_path)[0]
    path = tmp_path / form.index_file(name)
    index = msgspec.structs.replace(form.decode_index(path.read_bytes()), **changes)
    path.write_bytes(form.encode_index(index))
    store = AnswerStore(tmp_path, LOG)
    assert list(store.find(rows_of([1]))) == []
    assert store.broken == [name]


@pytest.mark.parametrize(
    "line", [b'{"key":"KEY","body":[1,\n2]}', b'{"key":"KEY","body":[1,', b'{"key":"0","body":1}']
)
def test_a_line_that_somebody_wrote(tmp_path: Path, line: bytes) -> None:
    """Its checksum is good, but it is no line of JSON, or about another request."""
    line = line.replace(b"KEY", digest(1).hex().encode())
    opened = writing._Open(
        "one-00000-0123456789abcdef", (tmp_path / "one-00000-0123456789abcdef.answers.jsonl").open("wb")
    )
    with opened.file:
        opened.groups[AnswerGroup("m", 1.0)] = 0
        opened.add(digest(1), 0, line)
    (tmp_path / form.index_file(opened.name)).write_bytes(form.encode_index(opened.index()))
    store = AnswerStore(tmp_path, LOG)
    assert list(store.find(rows_of([1]))) == []
    assert store.broken == [opened.name]


def test_files_of_other_names_are_no_segments(tmp_path: Path) -> None:
    write(tmp_path, "one", [1])
    for name in (
        "notes.txt",
        "a.index",
        ".index",
        "one-1-x.index",
        ".one-00000-0123456789abcdef.index.12.part",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / form.index_file("folder-00000-0123456789abcdef")).mkdir()
    (tmp_path / form.index_file("link-00000-0123456789abcdef")).symlink_to(tmp_path / "notes.txt")
    store = AnswerStore(tmp_path, LOG)
    assert len(list(store.find(rows_of([1])))) == 1
    assert store.broken == []


def test_an_index_elsewhere_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"memory://answers/{uuid.uuid4()}"
    for name in ("one", "two", "three"):
        write(uri, name, [1, 2], created=len(name))
    fetched: list[str] = []
    fs = type(StoreFolder(uri).path.fs)
    real = fs.cat_file

    def counted(self: Any, path: str, *args: Any, **named: Any) -> Any:
        fetched.append(path)
        return real(self, path, *args, **named)

    monkeypatch.setattr(fs, "cat_file", counted)
    assert find(uri, [1]) == {0: answer(1, 5)}
    indexes = [path for path in fetched if path.endswith(".index")]
    assert len(indexes) == len(set(indexes)) == 3
    assert len(fetched) == 4


def test_many_answers_of_a_segment_elsewhere_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """And few are a request each, without the rest of the file; so are more of them in a large one."""
    monkeypatch.setattr(reading, "_REMOTE_GAP_BYTES", 1_000)
    uri = f"memory://answers/{uuid.uuid4()}"
    with AnswerStore(uri, LOG).writer("one", created=1, metadata={}) as writer:
        for number in range(40):
            writer.add(digest(number), "m", b'"%d%b"' % (number, b"x" * 40_000))
    calls: list[str] = []
    fs = type(StoreFolder(uri).path.fs)
    for method in ("get_file", "cat_file"):
        real = getattr(fs, method)

        def counted(
            self: Any, path: str, *args: Any, _real: Any = real, _name: str = method, **named: Any
        ) -> Any:
            if path.endswith(".jsonl"):
                calls.append(_name)
            return _real(self, path, *args, **named)

        monkeypatch.setattr(fs, method, counted)
    assert len(find(uri, [3, 30])) == 2
    assert calls == ["cat_file"] * 2
    calls.clear()
    assert len(find(uri, range(0, 40, 2))) == 20
    assert calls == ["get_file"]
    calls.clear()
    monkeypatch.setattr(folder, "_BYTES_IN_A_REQUESTS_TIME", 50_000)
    assert len(find(uri, range(0, 40, 2))) == 20
    assert calls == ["cat_file"] * 20
    calls.clear()
    monkeypatch.setattr(reading, "_REMOTE_GAP_BYTES", 50_000)
    assert len(find(uri, range(0, 40, 2))) == 20
    assert calls == ["cat_file"]
