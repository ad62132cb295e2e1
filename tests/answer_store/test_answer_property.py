"""Whatever became of a store's files, a row gets an answer that was stored for its request, or none."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from storekit import answer, digest, rows_of, segments

from airflow_provider_openai_batches.answer_store import lookup
from airflow_provider_openai_batches.answer_store.folder import StoreFolder
from airflow_provider_openai_batches.answer_store.segments import AnswerGroup
from airflow_provider_openai_batches.answer_store.store import AnswerStore
from airflow_provider_openai_batches.answer_store.upkeep import Criteria, compact, forget, forget_broken, stat
from airflow_provider_openai_batches.answer_store.writing import SegmentsWriter

QUIET = logging.getLogger("answers of a property")
QUIET.disabled = True
MODELS = ("a", "b", None)


class Stored(NamedTuple):
    """An answer to the request with this number."""

    number: int
    created: int
    model: str | None


STORED = st.builds(Stored, st.integers(0, 30), st.integers(1, 5), st.sampled_from(MODELS))
SEGMENTS = st.lists(st.lists(STORED, min_size=1, max_size=12), min_size=1, max_size=5)
ROWS = st.lists(st.integers(0, 35), max_size=40)
HARMS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "truncate", "swap", "swap both", "delete", "append", "copy"]),
        st.integers(0, 1 << 20),
        st.integers(0, 1 << 20),
        st.integers(1, 255),
    ),
    max_size=4,
)


def write(folder: Path, stored: list[list[Stored]]) -> None:
    for number, answers in enumerate(stored):
        with SegmentsWriter(StoreFolder(folder), f"job-{number}") as writer:
            for one in answers:
                group = AnswerGroup(one.model, float(one.created))
                writer.add(digest(one.number), group, answer(one.number, one.created))


def harm(folder: Path, kind: str, which: int, where: int, bits: int) -> None:
    files = sorted(folder.iterdir())
    if not files:
        return
    path, other = files[which % len(files)], files[where % len(files)]
    data = bytearray(path.read_bytes())
    if kind == "flip" and data:
        data[where % len(data)] ^= bits
        path.write_bytes(data)
    elif kind == "truncate" and data:
        path.write_bytes(data[: where % len(data)])
    elif kind == "append":
        path.write_bytes(data + bytes([bits]) * (1 + where % 9))
    elif kind == "delete":
        path.unlink()
    elif kind == "copy":
        other.write_bytes(data)
    elif kind == "swap" and path.suffix == other.suffix:
        swap(path, other)
    elif kind == "swap both" and path.suffix == other.suffix == ".index":
        swap(path, other)
        swap(path.with_suffix(".answers.jsonl"), other.with_suffix(".answers.jsonl"))


def swap(path: Path, other: Path) -> None:
    if path != other and path.exists() and other.exists():
        spare = path.with_name("spare")
        path.rename(spare)
        other.rename(path)
        spare.rename(other)


def found_in(folder: Path, rows: list[int], since: float = 0.0) -> tuple[dict[int, bytes], list[str]]:
    store = AnswerStore(folder, QUIET)
    found = list(store.find(rows_of(rows), since=since))
    assert len(found) == len(dict(found))
    assert len(store.broken) == len(set(store.broken))
    return dict(found), store.broken


def newest(stored: list[list[Stored]], since: float = 0.0) -> dict[int, int]:
    times: dict[int, int] = {}
    for answers in stored:
        first: dict[int, int] = {}  # what was stored first of a segment counts
        for one in answers:
            first.setdefault(one.number, one.created)
        for number, created in first.items():
            if created >= since:
                times[number] = max(created, times.get(number, 0))
    return times


@given(stored=SEGMENTS, rows=ROWS, since=st.integers(0, 6), at_once=st.sampled_from([1, 7, 16_384]))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_each_row_gets_the_newest_answer(
    stored: list[list[Stored]], rows: list[int], since: int, at_once: int
) -> None:
    """Before and after each kind of upkeep; forgotten answers are gone, and all others stay."""
    before, lookup._ROWS_AT_ONCE = lookup._ROWS_AT_ONCE, at_once
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder, stored)
            times = newest(stored, since)
            wanted = {row: answer(n, times[n]) for row, n in enumerate(rows) if n in times}
            assert found_in(folder, rows, since) == (wanted, [])
            compact(folder)
            assert found_in(folder, rows, since) == (wanted, [])
            assert stat(folder).answers == len(newest(stored))
            forget(folder, Criteria(before=since))
            assert found_in(folder, rows) == (wanted, [])
    finally:
        lookup._ROWS_AT_ONCE = before


@given(stored=SEGMENTS, rows=ROWS, harms=HARMS)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_damage_never_gives_a_row_a_wrong_answer(
    stored: list[list[Stored]], rows: list[int], harms: list[tuple[str, int, int, int]]
) -> None:
    """Nothing fails; segments that are good give what they have; upkeep makes it no worse and mends it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, stored)
        originals = {path.name: path.read_bytes() for path in folder.iterdir()}
        for one in harms:
            harm(folder, *one)
        good = [
            answers
            for number, answers in enumerate(stored)
            if all(
                (folder / file).exists() and (folder / file).read_bytes() == content
                for file, content in originals.items()
                if file.startswith(f"job-{number}-")
            )
        ]
        possible = {
            n: {answer(one.number, one.created) for answers in stored for one in answers if one.number == n}
            for n in range(36)
        }

        def check(folder: Path) -> None:
            found, _ = found_in(folder, rows)
            assert all(body in possible[rows[row]] for row, body in found.items())
            times = newest(good)
            assert {row for row, n in enumerate(rows) if n in times} <= set(found)

        check(folder)
        compact(folder)
        check(folder)
        forget_broken(folder)
        check(folder)
        assert found_in(folder, list(range(36)))[1] == []
        forget(folder, Criteria(model="a"))
        found, _ = found_in(folder, list(range(36)))
        others = {answer(one.number, one.created) for s in stored for one in s if one.model != "a"}
        assert set(found.values()) <= others


@given(place=st.integers(0, 1 << 20), bits=st.integers(1, 255), kind=st.sampled_from(["flip", "truncate"]))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_damage_is_noticed(place: int, bits: int, kind: str) -> None:
    """A byte that was changed, or a file that was cut, makes a segment broken, if its line is looked for."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, [[Stored(number, 1, "m") for number in range(8)]])
        files = sorted(folder.iterdir())
        sizes = [path.stat().st_size for path in files]
        harm(folder, kind, int(place % sum(sizes) >= sizes[0]), place, bits)
        found, broken = found_in(folder, list(range(8)))
        assert broken == segments(folder)
        assert all(body == answer(row, 1) for row, body in found.items())
