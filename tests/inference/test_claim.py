"""The claim on an output directory: one of many tasks gets it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_openai_batches.exceptions import InvalidInputError
from airflow_provider_openai_batches.inference.claim import CLAIM_FILE, LEASE, ClaimFile
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
    for _ in range(2):
        with pytest.raises(InvalidInputError):
            mine.extend(1_000.0, 1_000.0)
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
    ClaimFile(place, "me").take(1_000.0)
    with pytest.raises(InvalidInputError):
        ClaimFile(place, "you").take(1_000.0)


def test_a_claim_that_cannot_be_read(tmp_path: Path) -> None:
    """It says which file to delete, and when."""
    (tmp_path / CLAIM_FILE).write_text("{")
    with pytest.raises(InvalidInputError, match=r"owner\.json is not the claim of a task.*Delete it"):
        ClaimFile(tmp_path, "me").take(1_000.0)
