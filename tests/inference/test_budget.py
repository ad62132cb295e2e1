"""How many tokens may be in line, whose they are, and what the list says about both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_openai_batches.api.models import (
    Batch,
    BatchErrorItem,
    BatchErrors,
    BatchRequestCounts,
    BatchUsage,
)
from airflow_provider_openai_batches.idempotency import keys
from airflow_provider_openai_batches.idempotency.submit import BatchSpec
from airflow_provider_openai_batches.inference.budget import Budget, limit_in
from airflow_provider_openai_batches.inference.data.job import Shard
from airflow_provider_openai_batches.inference.records import Records
from airflow_provider_openai_batches.inference.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_000_000.0
SPEC = BatchSpec(endpoint="/v1/responses")
REJECTED = "Enqueued token limit reached for m in organization o. Limit: {} enqueued tokens. Try again later."


class Listed:
    """A service that has these batches, newest first."""

    def __init__(self, *batches: Batch) -> None:
        self.batches, self.listings, self.listed = batches, 0, 0

    def iter_batches_since(self, since: float) -> Iterator[Batch]:
        self.listings += 1
        return self._newer(since)

    def _newer(self, since: float) -> Iterator[Batch]:
        for each in self.batches:
            if (each.created_at or 0) >= since:
                self.listed += 1
                yield each


def batch(task: str, tokens: int, status: str = "in_progress", **fields: Any) -> Batch:
    metadata = {keys.KEY: f"{task}-{tokens}", keys.TOKENS: f"{tokens} m"}
    given = {"id": f"batch-{task}-{tokens}", "created_at": int(NOW) - 3_600, "metadata": metadata}
    return Batch(status=status, **{**given, **fields})


def rejected(task: str, limit: str, seconds_ago: int = 60) -> Batch:
    said = BatchErrors([BatchErrorItem("token_limit_exceeded", REJECTED.format(limit))])
    return batch(task, 1, "failed", errors=said, created_at=int(NOW) - seconds_ago)


def shards(count: int, tokens: int = 100) -> list[Shard]:
    return [
        Shard(
            index=number,
            round=0,
            model="m",
            first_row=number,
            last_row=number,
            requests=1,
            bytes=tokens * 4,
            estimated_tokens=tokens,
            sha256="s",
        )
        for number in range(count)
    ]


def fitting(service: Listed, waiting: list[Shard], total: int = 9, **settings: Any) -> list[int]:
    """The numbers of the shards that a task may submit which has created one before."""
    records = Records(digest="", started=NOW)
    records.of(99).attempt = 1
    given: Any = service
    budget = Budget(Settings(spec=SPEC, poll_interval=60.0, **settings), given, records, "me")
    budget.look(waiting, NOW)
    return [shard.index for shard in budget.fitting(waiting, total)]


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (REJECTED.format("90,000"), 90_000),
        (REJECTED.format("90000"), 90_000),
        (REJECTED.format("2.000.000"), 2_000_000),
        (REJECTED.format("1 350 000"), 1_350_000),
        (REJECTED.format("90'000"), 90_000),
        (REJECTED.format("90\u202f000"), 90_000),
        (REJECTED.format("90000.0"), 90_000),
        (REJECTED.format("90.000,00"), 90_000),
        (REJECTED.format("12,34,567"), 1_234_567),
        ("limit: 5 tokens", 5),
        (f"Limit: 1{' ' * 200_000}", None),
        ("limit: 1," * 50_000, None),
        (REJECTED.format("90\u2019000"), 90_000),
        ("Limit: none", None),
        ("Limit: 0 enqueued tokens", None),
        (f"Limit: {'9' * 5_000} enqueued tokens", None),
        ("Rate limit reached", None),
        ("", None),
    ],
)
def test_the_limit_in_a_rejection(said: str, limit: int | None) -> None:
    """With and without separators; a number that is no number of tokens is none."""
    assert limit_in(said) == limit


def test_a_few_batches_need_no_list() -> None:
    """Where nobody knows a limit, three batches are the test themselves."""
    service = Listed()
    assert fitting(service, shards(3), total=3) == [0, 1, 2]
    assert service.listings == 0


def test_nothing_known() -> None:
    """A larger job begins with as many as are to be tested; what was in line once needs no test."""
    assert fitting(Listed(), shards(5)) == [0, 1]
    went_well = batch("you", 300, "completed", completed_at=int(NOW) - 60)
    assert fitting(Listed(went_well), shards(7)) == [0, 1, 2, 3, 4]


def test_what_is_in_line_counts() -> None:
    """The limit comes from the argument, the connection, or a rejection, which counts most."""
    service = Listed(batch("you", 150))
    assert fitting(service, shards(5), enqueued_token_limits={"m": 400}) == [0, 1]
    assert fitting(service, shards(5), max_enqueued_tokens=260) == [0]
    assert fitting(
        Listed(rejected("you", "360"), *service.batches), shards(5), max_enqueued_tokens=9_999
    ) == [0]


def test_the_newest_rejection_counts() -> None:
    """The limit of an account changes."""
    service = Listed(rejected("you", "900"), rejected("she", "250", 7_200))
    assert fitting(service, shards(5)) == [0, 1, 2]


def test_a_batch_of_a_day_ago_is_not_in_line() -> None:
    """Whatever the list says of it: the service ends each batch after a day."""
    given = [batch("you", 300, created_at=int(NOW) - hours * 3_600) for hours in (25, 27)]
    assert fitting(Listed(given[0]), shards(5), max_enqueued_tokens=500) == [0, 1]
    assert fitting(Listed(given[1]), shards(5), max_enqueued_tokens=500) == [0, 1, 2, 3, 4]


def test_how_much_of_the_list_is_read() -> None:
    """A page, to see whether anybody knows a limit; where there is one, all that may be in line."""
    unknown, known = Listed(*[batch("you", 1)] * 300), Listed(*[batch("you", 1)] * 300)
    fitting(unknown, shards(5))
    assert unknown.listed == 100
    assert fitting(known, shards(5), max_enqueued_tokens=550) == [0, 1]
    assert known.listed == 300


def test_estimates_follow_the_usage() -> None:
    """Finished batches had twice what was estimated."""
    ended = batch(
        "you",
        50,
        "completed",
        completed_at=int(NOW) - 3_000,
        usage=BatchUsage(input_tokens=100),
        request_counts=BatchRequestCounts(5, 5, 0),
    )
    assert fitting(Listed(ended), shards(5), max_enqueued_tokens=450) == [0, 1]


def ended(tokens: int, had: int | None, dag_id: str) -> Batch:
    """A batch of a DAG, with the prompt tokens that it had."""
    names = {keys.DAG_ID: dag_id, keys.TASK_ID: "ask", keys.KEY: f"{dag_id}-1", keys.TOKENS: f"{tokens} m"}
    return batch(
        dag_id,
        tokens,
        "completed",
        completed_at=int(NOW) - 3_000,
        metadata=names,
        usage=BatchUsage(input_tokens=had),
        request_counts=BatchRequestCounts(5, 5, 0),
    )


@pytest.mark.parametrize(
    ("listed", "tokens"),
    [
        ([], 100),
        ([ended(50, 100, "mine")], 200),
        ([ended(50, 100, "mine"), ended(50, 5_000, "images")], 200),
        ([ended(50, 1, "mine"), ended(50, 5_000, "images")], 2),
        ([ended(50, 5_000, "images")], 400),
        ([ended(50_000, 5, "images")], 25),
        ([ended(50, 10**400, "mine")], 10_000),
        ([ended(50, 10**400, "images"), ended(50, 50, "yours")], 250),
        ([ended(50, 0, "mine")], 100),
        ([ended(50, None, "mine"), ended(50, -7, "mine"), ended(0, 70, "mine")], 100),
    ],
)
def test_how_much_a_ratio_may_say(listed: list[Batch], tokens: int) -> None:
    """The batches of the same task count most; what others had says little, and nonsense says nothing."""
    given: Any = Listed(*listed)
    settings = Settings(spec=SPEC, max_enqueued_tokens=1_000)
    budget = Budget(settings, given, Records(digest="", started=NOW), "me", ("mine", "ask"))
    budget.look(shards(1), NOW)
    assert budget.tokens(shards(1)[0]) == tokens


def test_a_share_for_each_while_others_wait() -> None:
    """One that waits, shown by its rejection or by an end a moment ago, has its part left."""
    mine = batch("me", 100)
    assert fitting(Listed(mine), shards(5), max_enqueued_tokens=600) == [0, 1, 2, 3, 4]
    assert fitting(Listed(rejected("you", "600"), mine), shards(5)) == [0, 1]
    ended = batch("you", 100, "completed", completed_at=int(NOW) - 30)
    assert fitting(Listed(ended, mine), shards(5), max_enqueued_tokens=600) == [0, 1]
    long_ago = batch("you", 100, "completed", completed_at=int(NOW) - 3_000)
    assert fitting(Listed(long_ago, mine), shards(5), max_enqueued_tokens=600) == [0, 1, 2, 3, 4]
    for hours, found in ((2, [0, 1]), (4, [0, 1, 2, 3, 4])):  # a rejection that nothing followed
        waits = rejected("you", "600", hours * 3_600)
        assert fitting(Listed(mine, waits), shards(5)) == found


def test_a_share_smaller_than_a_shard() -> None:
    """Who has nothing in line may always have one, if there is room for it."""
    others = [batch(f"t{number}", 10) for number in range(9)]
    waits = rejected("you", "300")
    assert fitting(Listed(waits, *others), shards(5)) == [0]
    assert fitting(Listed(waits, batch("me", 50), *others), shards(5)) == []


def test_the_first_batch_takes_a_place_in_line() -> None:
    """It is submitted although there is no room, because its rejection tells the others."""
    given: Any = Listed(batch("you", 300))
    budget = Budget(
        Settings(spec=SPEC, max_enqueued_tokens=300), given, Records(digest="", started=NOW), "me"
    )
    budget.look(shards(3), NOW)
    assert [shard.index for shard in budget.fitting(shards(3), 2)] == [0]


@given(
    line=st.lists(st.tuples(st.sampled_from(["me", "you", "she"]), st.integers(1, 400)), max_size=8),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    limit=st.integers(1, 1_000),
    waits=st.booleans(),
)
def test_no_more_in_line_than_the_limit(
    line: list[tuple[str, int]], sizes: list[int], limit: int, *, waits: bool
) -> None:
    """For any line: what is submitted fits, in the order of the shards, and leaves others their share."""
    listed = [batch(task, tokens) for task, tokens in line]
    if waits:
        listed.insert(0, rejected("it", str(limit)))
    waiting = [shards(1, size)[0] for size in sizes]
    found = fitting(Listed(*listed), waiting, max_enqueued_tokens=limit)
    taken = sum(sizes[: len(found)])
    assert not found or sum(tokens for _, tokens in line) + taken <= limit
    own = sum(tokens for task, tokens in line if task == "me") + taken
    tasks = len({task for task, _ in line} | {"me"}) + 1
    assert not (waits and len(found) > 1) or own <= limit / tasks


@pytest.mark.parametrize(("limit", "submitted"), [(1_000, [0]), (1_999, [0]), (2_000, [0, 1, 2, 3])])
def test_a_job_that_needs_much_of_the_line_begins_with_one_batch(limit: int, submitted: list[int]) -> None:
    """So jobs that begin together see one another before they fill the line."""
    waiting: list[Shard] = [*shards(4, 250)]
    given: Any = Listed()
    settings = Settings(spec=SPEC, poll_interval=60.0, max_enqueued_tokens=limit)
    budget = Budget(settings, given, Records(digest="", started=NOW), "me")
    budget.look(waiting, NOW)
    assert [shard.index for shard in budget.fitting(waiting, 9)] == submitted


def test_a_canary_corrects_the_estimates() -> None:
    """Until a batch of the task's own is over; what others had says less."""
    given: Any = Listed()
    records = Records(digest="", started=NOW, measured=3.0)
    budget = Budget(Settings(spec=SPEC, max_enqueued_tokens=1_000), given, records, "me")
    (shard,) = shards(1, 250)
    assert budget.tokens(shard) == 750
    assert not budget.is_too_large(shard)
    records.measured = 5.0
    assert budget.is_too_large(shard)


def test_what_is_in_line_is_told_when_somebody_has_looked() -> None:
    given: Any = Listed(batch("other", 400))
    budget = Budget(
        Settings(spec=SPEC, max_enqueued_tokens=1_000), given, Records(digest="", started=NOW), "me"
    )
    waiting = shards(2)
    assert budget.progress(waiting) == {}
    budget.look(waiting, NOW)
    assert budget.progress(waiting) == {"tokens_in_line": 400, "token_limit": 1_000}
    found = msgspec.structs.replace(waiting[0], model=None, is_found=True)
    assert budget.progress([*waiting, found]) == {"tokens_in_line": 400, "token_limit": 1_000}


def test_a_limit_that_was_raised_is_not_overruled_by_what_was_said_long_ago() -> None:
    for hours, limit in ((1, 90), (4, 1_000)):
        given: Any = Listed(
            batch(
                "you", 1, "failed", errors=rejected("you", "90").errors, created_at=int(NOW) - hours * 3_600
            )
        )
        budget = Budget(
            Settings(spec=SPEC, max_enqueued_tokens=1_000), given, Records(digest="", started=NOW), "me"
        )
        budget.look(shards(2), NOW)
        assert budget.limit("m") == limit


def budget_that_waited(hours: float, *listed: Batch) -> Budget:
    """Of a task whose one batch so far was rejected so many hours ago."""
    records = Records(digest="", started=NOW)
    records.of(0).attempt, records.of(0).created_at = 1, NOW - hours * 3_600
    given: Any = Listed(*listed)
    budget = Budget(Settings(spec=SPEC, max_enqueued_tokens=1_000), given, records, "me")
    budget.look(shards(1, 500), NOW)
    return budget


def test_what_has_waited_in_vain_is_cut_to_its_share() -> None:
    """Otherwise smaller batches, of which there are always more, would have the room forever."""
    (large,) = [msgspec.structs.replace(shard, requests=50) for shard in shards(1, 500)]
    small = [batch(f"t{number}", 90) for number in range(9)]
    waited = budget_that_waited(4, *small)
    assert waited.is_too_large(large)
    assert waited.piece_of(large).piece_bytes == 50 * 4
    assert waited.piece_of(large).limit == 1_000
    assert not waited.is_too_large(msgspec.structs.replace(large, requests=1))
    assert not waited.is_too_large(msgspec.structs.replace(large, estimated_tokens=100, bytes=400))
    assert not budget_that_waited(2, *small).is_too_large(large)
    assert not budget_that_waited(4, *small, batch("me", 50)).is_too_large(large)
    many = [batch(f"t{number}", 1) for number in range(900)]
    assert budget_that_waited(4, *many).piece_of(large).piece_bytes == 25 * 4
