"""Writes what must be asked again into more request files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.inference.data.index import MOST_ROUNDS
from airflow_provider_openai_batches.inference.data.job import default_id, read_ids
from airflow_provider_openai_batches.inference.data.shards import Envelope, ShardWriter
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.job import Cut, Job, Shard
    from airflow_provider_openai_batches.inference.data.shards import Counts


class _Line(msgspec.Struct):
    body: dict[str, Any]


def write_followup(
    index: ResultIndex,
    max_rounds: int = MOST_ROUNDS,
    cut: Cut | None = None,
    *,
    completed: Callable[[Shard], None] | None = None,
) -> Job:
    """
    Copy the request lines of all rows that are open byte for byte into new shards, named in ``job.json``.

    :param index: with the results of the batches that are over; afterwards it belongs to the job that is
        returned.
    :param max_rounds: how many times a row may be asked again.
    :param cut: how to cut them where the enqueued-token limit is small.
    :param completed: as in :func:`.write_shards`.
    :return: the job with the new shards; the same job if there is nothing to ask again now.
    """
    job, work = index.job, index.work
    wanted = index.open_rows(max_rounds)
    if not any(wanted):
        return job
    first_index = max(shard.index for shard in job.shards) + 1
    round_number = max(1, index.times_asked(wanted))
    envelope, named = Envelope(job.endpoint), {"first_index": first_index, "round_number": round_number}
    with ShardWriter(work, envelope, job.limits, cut=cut, completed=completed, **named) as writer:
        for shard in job.shards_of(0):
            _copy(shard, index, wanted, writer)
    shards = [
        msgspec.structs.replace(shard, new_rows=sum(index.is_new(row) for row, _ in read_ids(work, shard)))
        for shard in writer.shards
    ]
    index.job = msgspec.structs.replace(job, shards=[*job.shards, *shards])
    index.job.save(work)
    return index.job


def _copy(shard: Shard, index: ResultIndex, wanted: bytearray, writer: ShardWriter) -> None:
    spec = spec_of(index.job.endpoint)
    is_bound = spec.has_output and shard.most_output_tokens is not None
    counts: Counts = (0, None if spec.has_output else 0)
    for row, custom_id, line in request_lines(shard, index, wanted):
        if spec.count_inputs or is_bound:
            body = msgspec.json.decode(line, type=_Line).body
            inputs = spec.count_inputs(body.get("input")) if spec.count_inputs else 0
            counts = inputs, spec.most_output_tokens(body)
        is_named = custom_id != default_id(row)
        writer.add(row, msgspec.json.encode(custom_id), line, shard.model, counts, is_named)


def request_lines(shard: Shard, index: ResultIndex, wanted: bytearray) -> Iterator[tuple[int, str, bytes]]:
    """
    Yield row number, custom_id and request line of some rows of a shard of the first round.

    :param wanted: 1 for each row of the job that is wanted, and 0 for the others.
    """
    if not any(wanted[shard.first_row : shard.last_row + 1]):
        return
    index.fetch(shard.file)
    with open_binary(index.work / shard.file) as lines:
        for (row, custom_id), line in zip(read_ids(index.work, shard), lines, strict=True):
            if wanted[row]:
                yield row, custom_id, line
    index.drop(shard.file)
