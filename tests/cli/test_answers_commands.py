"""``airflow openai-batches answers``: what it prints, what it deletes, and how it ends."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from storekit import find, segments, write

from airflow_provider_openai_batches.answer_store import segments as form
from airflow_provider_openai_batches.answer_store import upkeep
from airflow_provider_openai_batches.exceptions import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]

DAY = 86_400


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Two segments: three answers of a year ago, two of yesterday."""
    now = time.time()
    place = str(tmp_path / "answers")
    write(place, "old", range(3), created=now - 365 * DAY, model="m1", metadata={"team": "x"})
    write(place, "new", range(2, 4), created=now - DAY, model="[red]m2\x1b[2J", metadata={"team": "a=b"})
    return place


def break_one(uri: str, tmp_path: Path) -> str:
    name = segments(uri)[0]
    (tmp_path / "answers" / form.index_file(name)).write_bytes(b"x")
    return name


def test_stat(run: Run, uri: str) -> None:
    """For people; what a model calls itself does not reach the terminal as it is."""
    done = run("answers", "stat", uri)
    assert done.code == 0
    for words in ("segments", "oldest", "answers of m1", "answers of [red]m2", time.strftime("%Y-")):
        assert words in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_stat_structured(run: Run, uri: str, output: str, read: Callable[[str], Any]) -> None:
    """Numbers as numbers."""
    found = read(run("answers", "stat", uri, "--output", output).out)
    assert (found["segments"], found["answers"], found["broken"]) == (2, 5, {})
    assert found["models"]["m1"] == 3
    assert found["newest"] - found["oldest"] == pytest.approx(364 * DAY, abs=5)


def test_stat_of_nothing(run: Run, tmp_path: Path) -> None:
    """A URI with a slip in it shows at once."""
    done = run("answers", "stat", str(tmp_path / "nothing"))
    assert done.code == 0
    assert "There are no answers in" in done.err


def test_compact(run: Run, uri: str) -> None:
    assert "segments now" in run("answers", "compact", f"{uri}/nothing").out
    done = run("answers", "compact", uri, "--output", "json")
    assert (done.code, json.loads(done.out)) == (
        0,
        {"before": 2, "after": 1, "dropped": 1, "abandoned": 0, "broken": {}},
    )
    assert len(find(uri, range(5))) == 4


@pytest.mark.parametrize("command", [("stat",), ("compact",), ("forget", "--older-than", "30d", "--yes")])
def test_a_broken_segment_is_named(run: Run, uri: str, tmp_path: Path, command: tuple[str, ...]) -> None:
    """And left alone; a script sees it by the code."""
    name = break_one(uri, tmp_path)
    done = run("answers", command[0], uri, *command[1:])
    assert done.code == 1
    assert f"Segment {name} is broken: its index is damaged" in done.err
    assert ("--broken" in done.err) == (command[0] == "forget")
    assert name in segments(uri)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (("--older-than", "52w"), {2, 3}),
        (("--older-than", "36h"), {2, 3}),
        (("--older-than", "500d"), {0, 1, 2, 3}),
        (("--model", "m1"), {2, 3}),
        (("--metadata", "team=a=b"), {0, 1, 2}),
        (("--metadata", "team=x", "--older-than", "500d"), {0, 1, 2, 3}),
    ],
)
def test_forget(run: Run, uri: str, options: tuple[str, ...], left: set[int]) -> None:
    done = run("answers", "forget", uri, *options, "--yes", "--output", "json")
    assert done.code == 0
    assert set(find(uri, range(5))) == left
    assert json.loads(done.out)["answers"] == 5 - upkeep.stat(uri).answers


def test_forget_asks(run: Run, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number of answers; another answer than yes deletes nothing, and so does no terminal."""
    done = run("answers", "forget", uri, "--model", "m1")
    assert done.code == 2
    assert "3 answers in 1 segment would be deleted, but there is no terminal" in done.err
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    for reply, code, left in (("n", 2, 2), ("y", 0, 1)):

        def ask(text: str, reply: str = reply) -> str:
            asked.append(text)
            return reply

        monkeypatch.setattr("builtins.input", ask)
        assert run("answers", "forget", uri, "--model", "m1").code == code
        assert len(segments(uri)) == left
    assert "3 answers in 1 segment of" in asked[0]


def test_one_answer_is_one_answer(run: Run, uri: str) -> None:
    write(uri, "one", [7], created=time.time(), model="m3")
    assert "1 answer in 1 segment would be deleted" in run("answers", "forget", uri, "--model", "m3").err


def test_forget_what_is_not_there_asks_nothing(run: Run, uri: str) -> None:
    done = run("answers", "forget", uri, "--model", "none", "--output", "json")
    assert (done.code, json.loads(done.out)["answers"]) == (0, 0)


def test_forget_what_is_broken(run: Run, uri: str, tmp_path: Path) -> None:
    name = break_one(uri, tmp_path)
    done = run("answers", "forget", uri, "--broken", "--yes")
    assert done.code == 0
    assert name not in segments(uri)
    assert len(segments(uri)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--older-than, --model, --metadata or --broken"),
        (("--broken", "--model", "m"), "no other choice"),
        (("--older-than", "5"), "no age such as"),
        (("--older-than", "0d"), "no age such as"),
        (("--metadata", "team"), "NAME=VALUE"),
    ],
)
def test_forget_without_a_clear_choice(run: Run, uri: str, options: tuple[str, ...], words: str) -> None:
    done = run("answers", "forget", uri, *options, "--yes")
    assert done.code == 2
    assert words in done.err
    assert len(segments(uri)) == 2


@pytest.mark.parametrize("command", ["stat", "compact"])
def test_a_store_that_cannot_be_used(run: Run, tmp_path: Path, command: str) -> None:
    """A sentence and code 2."""
    (tmp_path / "file").write_text("x")
    done = run("answers", command, str(tmp_path / "file"))
    assert done.code == 2
    assert done.err.startswith("Error: answers_uri")
    assert run("answers", command, "nonsense://x/y").code == 2


def test_ctrl_c(run: Run, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(upkeep, "compact", stopped)
    done = run("answers", "compact", uri)
    assert done.code == 130
    assert "What was not deleted by now is still there" in done.err


def test_a_scheme_that_nobody_knows_is_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="answers_uri"):
        upkeep.stat("nonsense://x/y")


@pytest.mark.parametrize("command", [("stat",), ("compact",), ("forget", "--model", "m1", "--yes")])
@pytest.mark.parametrize("uri", ["", " ", "s3://bucket/answers", "nowhere://answers"])
def test_a_store_that_cannot_be(run: Run, command: tuple[str, ...], uri: str) -> None:
    """The URI is empty, the client of the store is not installed, or there is none for the scheme."""
    done = run("answers", command[0], uri, *command[1:])
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: answers_uri")
    assert ("no store that can be used" if uri.strip() else "is empty") in done.err
