"""The claim on an output directory: one of many tasks gets it."""

from __future__ import annotations

import errno
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.idempotency.keys import UNNAMED, TaskIdentity
from airflow_provider_openai_batches.inference.claim import CLAIM_FILE, LEASE, SEEN_SECONDS, ClaimFile
from airflow_provider_openai_batches.storage import as_path

if TYPE_CHECKING:
    from pathlib import Path


def directory(tmp_path: Path, kind: str) -> Any:
    return as_path(f"memory://claims/{uuid.uuid4().hex}") if kind == "store" else tmp_path / "out"


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    """All at the same moment."""
    claims = [ClaimFile(tmp_path / "out", f"owner-{n}") for n in range(20)]

    def takes(claim: ClaimFile) -> bool:
        try:
            claim.take(1_000.0)
        except InvalidInputError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(takes, claims)) == 1


def test_a_claim_that_could_not_be_written_is_not_left_behind(tmp_path: Path) -> None:
    """A full disk: the next try would find half a claim, and take it for damage that a person must mend."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from airflow_provider_openai_batches.inference.claim import ClaimFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "ClaimFile(Path(sys.argv[1]), 'me').take(1_000.0)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "OSError: [Errno 27]" in ran.stderr
    assert not (tmp_path / "out" / CLAIM_FILE).exists()
    ClaimFile(tmp_path / "out", "me").take(2_000.0)


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_from_try_to_try(tmp_path: Path, kind: str) -> None:
    """A later try of the task has it too; what another task gives up is not this one's to give up."""
    place = directory(tmp_path, kind)
    mine, again, other = ClaimFile(place, "me"), ClaimFile(place, "me"), ClaimFile(place, "you")
    mine.take(1_000.0)
    again.take(2_000.0)
    assert (mine.is_new, again.is_new) == (True, False)
    with pytest.raises(InvalidInputError, match="Another task has been writing"):
        other.take(2_000.0)
    other.release()
    assert mine.is_there
    mine.extend(2_000.0, 50_000.0 + LEASE)
    with pytest.raises(InvalidInputError):
        other.take(50_000.0 + LEASE)
    mine.release()
    assert not (place / CLAIM_FILE).exists()
    other.take(2_000.0)


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_a_task_that_lost_its_claim_hears_of_it(tmp_path: Path, kind: str) -> None:
    """A store that cannot refuse a second file shows whose was the last."""
    place = directory(tmp_path, kind)
    mine, other = ClaimFile(place, "me"), ClaimFile(place, "you")
    mine.take(1_000.0)
    other.take(1_000.0, overwrite=True)
    later = 1_000.0 + (SEEN_SECONDS if kind == "store" else 0)  # a store costs time and money
    for _ in range(2):
        with pytest.raises(InvalidInputError):
            mine.extend(later, later)
    mine.release()
    other.extend(1_000.0, 1_000.0)


def test_a_store_that_cannot_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old fsspec does not know the mode; then a look before and one after must do."""
    place = directory(tmp_path, "store")
    write = place.fs.pipe_file

    def old(path: str, value: bytes, **given: Any) -> None:
        if given:
            raise TypeError("unexpected keyword argument 'mode'")
        write(path, value)

    monkeypatch.setattr(type(place.fs), "pipe_file", staticmethod(old))
    claims = [ClaimFile(place, owner, sleep=lambda _: None) for owner in ("me", "you")]
    claims[0].take(1_000.0)
    with pytest.raises(InvalidInputError):
        claims[1].take(1_000.0)
    claims[0].release()

    def other_writes(_: float) -> None:  # it found no claim either, a moment ago
        claims[1]._create_in_store = lambda content, **_: claims[1]._path.write_bytes(content)  # type: ignore[method-assign]
        claims[1]._sleep = lambda _: None
        claims[1].take(1_000.0)

    slow = ClaimFile(place, "me", sleep=other_writes)
    with pytest.raises(InvalidInputError, match="has been writing"):
        slow.take(1_000.0)
    assert claims[1].check().owner == "you"


REFUSALS = {
    "it is there, in S3's words": (OSError(errno.EINVAL, "PreconditionFailed"), True),
    "both at once, in S3's words": (OSError(errno.EBUSY, "ConditionalRequestConflict"), True),
    "a server that cannot": (OSError(errno.ENOSYS, "NotImplemented"), False),
    "a client that cannot": (TypeError("mode"), False),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_stores_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Each store has errors of its own for a claim that is there, and for not knowing the question."""
    error, is_there = REFUSALS[kind]
    place = directory(tmp_path, "store")
    write = place.fs.pipe_file

    def pipe_file(_: Any, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode != "create":
            write(path, value)
            return
        if is_there:
            write(path, value.replace(b'"you"', b'"me"'))  # a moment before
        raise error

    monkeypatch.setattr(type(place.fs), "pipe_file", pipe_file)
    claim = ClaimFile(place, "you", sleep=lambda _: None)
    if is_there:
        with pytest.raises(InvalidInputError, match="has been writing"):
            claim.take(1_000.0)
    else:
        claim.take(1_000.0)
        assert claim.check().owner == "you"


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_a_store_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The clients of stores keep what they have listed, but another worker may have written since."""
    place = directory(tmp_path, kind)
    mine = ClaimFile(place, "me")
    if kind == "store":
        known: dict[str, Any] = {}
        fs = place.fs
        exists = fs.exists
        monkeypatch.setattr(
            type(fs), "exists", lambda _, path, **__: known.setdefault(path, exists(path)), raising=False
        )
        monkeypatch.setattr(type(fs), "invalidate_cache", lambda *_: known.clear())
    assert not mine.is_there
    ClaimFile(place, "you").take(1_000.0)
    assert mine.is_there
    with pytest.raises(InvalidInputError):
        mine.take(1_000.0)


def _task(deployment: str, **names: Any) -> TaskIdentity:
    return TaskIdentity(deployment, **{"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 1, **names})


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (_task(f"{UNNAMED}http://a"), _task(f"{UNNAMED}http://b"), True),
        (_task(f"{UNNAMED}http://a"), _task(f"{UNNAMED}http://b", map_index=2), False),
        (_task(f"{UNNAMED}http://a"), _task(f"{UNNAMED}http://b", run_id="s"), False),
        (_task("a"), _task("b"), False),
        (_task(f"{UNNAMED}http://a"), _task("b"), False),
        (_task("a"), _task(f"{UNNAMED}http://b"), False),
    ],
)
def test_a_task_under_another_key(
    tmp_path: Path, first: TaskIdentity, second: TaskIdentity, *, is_same: bool
) -> None:
    """Without a deployment id, the key of a task is a guess of each worker: a later try takes the first."""
    claims = [ClaimFile(tmp_path / "out", task.task_key[:12], task) for task in (first, second)]
    claims[0].take(1_000.0)
    assert claims[1].first_identity() == (first if is_same else None)
    with pytest.raises(InvalidInputError):
        claims[1].take(2_000.0)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        '{"owner": "x", "since": 0, "until": 1e30}',
        '{"owner": "x", "since": -1, "until": 1}',
    ],
    ids=["cut", "deep", "far", "before"],
)
def test_a_claim_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    """It says which file to delete, and when."""
    (tmp_path / CLAIM_FILE).write_text(content)
    with pytest.raises(InvalidInputError, match=r"owner\.json is not the claim of a task.*Delete it"):
        ClaimFile(tmp_path, "me").take(1_000.0)
