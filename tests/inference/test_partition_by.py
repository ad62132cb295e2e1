"""``partition_by``: what a task with it writes, and what is refused before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from inferencekit import again, job, manifest, rows
from support import run_task, task_context

from airflow_provider_openai_batches.exceptions import BatchFailed, InvalidInputError
from airflow_provider_openai_batches.inference.data import partitions
from airflow_provider_openai_batches.results import read_results

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_openai_batches.devserver import DevServer

BY: dict[str, Any] = {"keep_columns": ["key", "shop"], "partition_by": "shop"}


def shops(count: int, markers: dict[int, str] | None = None) -> list[dict[str, Any]]:
    return [{**row, "shop": f"s{number % 3}"} for number, row in enumerate(rows(count, markers))]


@pytest.mark.parametrize("place", ["disk", "store"])
def test_a_job_of_several_rounds(server: DevServer, out: Path, place: str) -> None:
    """Its batches have rows of all values; in a store its files are copies, which come and go."""
    uri = str(out) if place == "disk" else f"memory://partitions/{out.name}"
    given = shops(12, {1: "fail:429*1", 5: "fail:400"})
    summary = run_task(job(uri, requests=given, max_requests_per_batch=5, deduplicate=True, **BY))
    assert summary["counts"]["succeeded"] == 11
    assert summary["parts"] == [f"shop=s{number}/part-00000.jsonl" for number in range(3)]
    found = [(row["key"], row["shop"]) for row in read_results(summary)]
    assert found == [(f"k{n}", f"s{shop}") for shop in range(3) for n in range(shop, 12, 3)]


def test_it_is_another_job(server: DevServer, out: Path) -> None:
    operator = job(out, requests=shops(3), **BY)
    first, before = run_task(operator), server.stats()["requests"]
    assert again(operator) == first
    assert server.stats()["requests"] == before
    with pytest.raises(InvalidInputError, match="another job"):
        again(operator, partition_by=None)


def test_a_job_that_failed_and_goes_on(server: DevServer, out: Path) -> None:
    """Its parts are there, without a manifest, and then with one."""
    operator = job(out, requests=shops(3, {1: "fail:400"}), fail_on="any", **BY)
    with pytest.raises(BatchFailed):
        run_task(operator)
    assert (out / "shop=s1" / "part-00000.jsonl").exists()
    again(operator, fail_on="none")
    assert [part["partition"] for part in manifest(out)["parts"]] == [{"shop": f"s{n}"} for n in range(3)]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "shop=s0", "shop=s1", "shop=s2"]


def test_overwriting_leaves_no_part_of_the_job_before(server: DevServer, out: Path) -> None:
    operator = job(out, requests=shops(3), **BY)
    run_task(operator)
    other = job(out, requests=rows(2), overwrite=True)
    run_task(other, task_context(other, run_id="other"))
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "part-00000.jsonl"]


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ((), "partition_by='shop' needs this column in keep_columns, which has none"),
        ("key", "needs this column in keep_columns, which has 'key'"),
        (["key", "text"], "needs this column in keep_columns, which has 'key', 'text'"),
    ],
)
def test_a_column_that_is_not_kept(keep: Any, said: str, out: Path) -> None:
    """It is refused when the DAG is parsed."""
    with pytest.raises(InvalidInputError, match=said):
        job(out, requests=shops(1), keep_columns=keep, partition_by="shop")


def test_too_many_values_cost_nothing(server: DevServer, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MAX_PARTITIONS", 2)
    with pytest.raises(InvalidInputError, match=r"Row 2.*'s2' is one more than the 2 .*Nothing was sent"):
        run_task(job(out, requests=shops(3), **BY))
    assert not server.stats()["requests"]
    assert not list(out.glob("*"))


def test_the_directory_of_another_job_is_not_taken(server: DevServer, out: Path) -> None:
    run_task(job(out / "shop=s1", requests=rows(1)))
    before = server.stats()["requests"]
    with pytest.raises(InvalidInputError, match="shop=s1 is the directory of another job"):
        run_task(job(out, requests=shops(3), **BY))
    assert server.stats()["requests"] == before
