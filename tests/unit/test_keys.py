"""A key names one task's one input, and the right batch is chosen by it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api.models import TERMINAL_STATUSES, Batch, BatchRequestCounts
from airflow_provider_openai_batches.api.validation import check_metadata
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.idempotency.keys import UNNAMED, Origin, TaskIdentity
from airflow_provider_openai_batches.idempotency.ledger import Ledger, choose

TASK = TaskIdentity("prod", "dag", "run", "task", 3)
PARTS = st.tuples(
    st.text(), st.text(), st.text(), st.text(), st.integers(-1, 5), st.integers(0, 5), st.text()
)


Parts = tuple[str, str, str, str, int, int, str]


def key(parts: Parts) -> str:
    deployment_id, dag_id, run_id, task_id, map_index, shard, digest = parts
    return TaskIdentity(deployment_id, dag_id, run_id, task_id, map_index).key(digest, shard)


@given(PARTS, PARTS)
def test_keys_are_equal_only_for_the_same_task_shard_and_input(one: Parts, other: Parts) -> None:
    """Different tasks, shards or inputs never share a key, even if their names joined together are equal."""
    assert (key(one) == key(other)) is (one == other)


def batch(status: str, batch_key: str = "k", **fields: Any) -> Batch:
    return Batch(id=f"batch_{status}_{batch_key}", status=status, metadata={keys.KEY: batch_key}, **fields)


def test_the_metadata_keeps_the_users_pairs_and_fits() -> None:
    """Eleven pairs of the user's own have room beside ours, at their longest."""
    own = {f"k{number}": "v" * 512 for number in range(11)}
    task = TaskIdentity("d", "x" * 250, "y" * 250, "z" * 250, 1_000_000)
    metadata = check_metadata(task.metadata(task.key("digest"), own))
    assert own.items() <= metadata.items()
    assert metadata["airflow_dag_id"] == "x" * 250


@pytest.mark.parametrize("map_index", [-1, 0, 999_999_999])
def test_what_a_task_writes_names_it_again(map_index: int) -> None:
    """The page, the command line and the metrics read what the operators write."""
    task = TaskIdentity("d", "dag", "run", "task", map_index)
    made = Batch(id="b", metadata=task.metadata("key"))
    assert Origin.of(made) == Origin("dag", "run", "task", map_index)


@pytest.mark.parametrize("index", ["", "-1", "2.5", "x", "\u0662", "9" * 10, "9" * 5_000])
def test_what_is_not_a_map_index_is_none(index: str) -> None:
    """Anybody can write metadata, and Python reads no number of 5,000 digits."""
    made = Batch(id="b", metadata={"airflow_task_id": "ask", "airflow_map_index": index})
    assert Origin.of(made) == Origin(task_id="ask")
    assert Origin.of(made).task == "ask"


def test_a_batch_that_no_task_made() -> None:
    """Missing and empty metadata are the same."""
    assert Origin.of(Batch(id="b")) == Origin()
    assert Origin.of(Batch(id="b", metadata={"airflow_dag_id": ""})) == Origin()
    assert Origin.of(Batch(id="b", metadata={"airflow_map_index": "2"})).task is None


def test_a_completed_batch_is_chosen_before_a_running_one() -> None:
    """It is paid for and done."""
    listed = [batch("in_progress"), batch("completed"), batch("completed", "other")]
    chosen = choose(listed, "k")
    assert chosen is not None
    assert chosen.status == "completed"


@given(st.sampled_from(sorted(TERMINAL_STATUSES - {"completed"})))
def test_what_ended_badly_is_not_used(status: str) -> None:
    """A new one is asked for instead."""
    assert choose([batch(status)], "k") is None


def test_a_batch_whose_requests_all_failed_is_not_used() -> None:
    """A retry would otherwise fail on it for ever."""
    failed = batch("completed", request_counts=BatchRequestCounts(total=2, completed=0, failed=2))
    assert choose([failed], "k") is None


def test_an_unknown_status_is_still_running() -> None:
    """Compatible servers have statuses of their own."""
    assert choose([batch("scheduling")], "k") is not None


def test_only_this_tasks_running_batches_are_outdated() -> None:
    """Nothing of another task or deployment is ever touched."""
    mine, asked = TASK.key("old"), TASK.key("new")
    theirs = TaskIdentity("staging", "dag", "run", "task", 3).key("old")
    listed = [
        batch("in_progress", mine),
        batch("completed", mine),
        batch("cancelling", mine),
        batch("in_progress", asked),
        batch("in_progress", theirs),
        Batch(id="none", status="in_progress"),
    ]
    assert [one for one in listed if TASK.owns(one)] == listed[:4]
    ledger = Ledger(Listing(listed), TASK, since=0)  # type: ignore[arg-type]
    assert ledger.outdated({asked}) == [listed[0]]


class Listing:
    """A service that can do nothing but list."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def iter_batches_since(self, since: float) -> list[Batch]:
        return self.batches


IDS = st.text("ab", max_size=2)


@given(first=IDS, second=IDS, named=st.booleans())
def test_a_deployment_without_an_id_knows_its_batches_by_their_names(
    first: str, second: str, *, named: bool
) -> None:
    """And never those of a deployment with an id."""
    prefix = "" if named else UNNAMED
    made_by = TaskIdentity(f"{prefix}{first}", "dag", "run", "task")
    made = Batch("batch_1", "completed", metadata=made_by.metadata(made_by.key("digest")))
    now = TaskIdentity(f"{UNNAMED}{second}", "dag", "run", "task")
    found = now.renamed(made)
    if found is not None:
        assert found.metadata == now.metadata(now.key("digest"))
    # Without a mark, an empty id and the same address are those of the first release.
    is_renamed = first in {"", second} if named else first != second
    assert (found is not None) is is_renamed
    assert (found is not None or now.owns(made)) is (is_renamed or not named)
    assert TaskIdentity(f"{UNNAMED}{second}", "dag", "run", "other").renamed(made) is None


@given(address=IDS, before=IDS, is_of_first_release=st.booleans())
def test_a_deployment_that_was_given_an_id_knows_what_it_made_before(
    address: str, before: str, *, is_of_first_release: bool
) -> None:
    """Under the address that it has here, which another deployment without an id does not have."""
    made_by = TaskIdentity(f"{'' if is_of_first_release else UNNAMED}{before}", "dag", "run", "task")
    made = Batch("batch_1", "completed", metadata=made_by.metadata(made_by.key("digest")))
    now = TaskIdentity("production", "dag", "run", "task", guess=f"{UNNAMED}{address}")
    found = now.renamed(made)
    assert (found is not None) is (before == address)
    if found is not None:
        assert found.metadata == now.metadata(now.key("digest"))
    assert TaskIdentity("production", "dag", "run", "task").renamed(made) is None


WHOLE, PARTLY = ["completed", "in_progress"], ["expired", "cancelling"]


@pytest.mark.parametrize("theirs", [*WHOLE, *PARTLY])
@pytest.mark.parametrize("own", [*WHOLE, *PARTLY, "failed"])
def test_a_batch_of_the_tasks_own_comes_first(own: str, theirs: str) -> None:
    """Nobody would wait for its own one that runs; a whole one of equal names comes before half a one."""
    mine = Batch("mine", own, output_file_id="file-1", metadata={keys.KEY: "k"})
    other = Batch("other", theirs, output_file_id="file-2", metadata={keys.KEY: "k"})
    chosen = choose([other, mine], "k", {"other"})
    is_mine = own in WHOLE or (theirs in PARTLY and own == theirs) or (own == "expired" and theirs in PARTLY)
    assert chosen is (mine if is_mine else other)
