"""A whole job against a service that fails at random: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobkit import FAULTS, Service, prepare, read_parts

from airflow_provider_openai_batches.inference.data.followup import write_followup
from airflow_provider_openai_batches.inference.data.index import ResultIndex
from airflow_provider_openai_batches.inference.data.job import Job, Limits
from airflow_provider_openai_batches.inference.data.merge import merge

if TYPE_CHECKING:
    import pytest

ROUNDS = 3


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=25),
    ids=st.none() | st.randoms(use_true_random=False),
    models=st.integers(1, 3),
    limits=st.builds(Limits, max_requests=st.integers(1, 9), max_bytes=st.integers(700, 3_000)),
    rows_per_part=st.integers(1, 9),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_each_row_has_one_result_in_order(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    ids: Any,
    models: int,
    limits: Limits,
    rows_per_part: int,
    seed: int,
    data: Any,
) -> None:
    """Any rows, limits, order, faults and rounds; each process starts from what is on the disk."""
    work = tmp_path_factory.mktemp("job")
    keys = [f"k{number}" for number in range(len(texts))]
    if ids is not None:
        ids.shuffle(keys)
    rows = [
        {"key": key, "text": text, "m": f"m{number % models}"}
        for number, (key, text) in enumerate(zip(keys, texts, strict=True))
    ]
    names = keys if ids is not None else [f"row-{number}" for number in range(len(texts))]
    body = {"model": "{m}", "messages": [{"role": "user", "content": "{text}"}]}
    prepare(
        work,
        iter(rows),
        limits,
        body=body,
        id_column="key" if ids is not None else None,
        keep_columns=["text"],
    )
    fault = st.sampled_from((None, *FAULTS))
    faults = data.draw(st.fixed_dictionaries({(r, name): fault for r in range(ROUNDS) for name in names}))
    service = Service(work, faults, seed)
    files: dict[int, Any] = {}
    for round_number in range(ROUNDS):
        job = loaded(work)
        files |= {shard.index: service.run(shard) for shard in job.shards_of(round_number)}
        index = indexed(job, work, files)
        if index.unfinished and round_number < ROUNDS - 1:
            write_followup(index)
        else:
            break
    merged = merge(indexed(loaded(work), work, files), work / "out", rows_per_part=rows_per_part)
    results = read_parts(work / "out")
    assert [(row["custom_id"], row["text"]) for row in results] == list(zip(names, texts, strict=True))
    expected = [expected_of(faults, name, text) for name, text in zip(names, texts, strict=True)]
    assert [(row["status"], row["output"]) for row in results] == expected
    assert all(count <= 1 for count in service.paid.values())
    assert sum(merged.counts.values()) == sum(part.rows for part in merged.parts) == len(texts)
    assert all(part.rows <= rows_per_part for part in merged.parts)
    assert merged.usage.total_tokens == 5 * sum(service.paid.values())


def loaded(work: Any) -> Job:
    job = Job.load(work)
    assert job is not None
    return job


def indexed(job: Job, work: Any, files: dict[int, Any]) -> ResultIndex:
    index = ResultIndex(job, work)
    for shard in job.shards:
        index.add(shard, files[shard.index])
    return index


def expected_of(faults: dict[tuple[int, str], str | None], name: str, text: str) -> tuple[str, str | None]:
    """How the row must end, worked out without the code under test."""
    seen = []
    for round_number in range(ROUNDS):
        fault = faults[round_number, name]
        if fault is None:
            return "succeeded", text
        seen.append(fault)
        if fault == "invalid":
            return "failed", None
    told = [fault for fault in seen if fault != "lost"]
    if not told:
        return "missing", None
    return {"busy": "failed", "limited": "failed"}.get(told[-1], told[-1]), None
