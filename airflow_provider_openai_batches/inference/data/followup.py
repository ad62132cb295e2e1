"""Writes what must be asked again into the request files of a next round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_openai_batches.api.endpoints import spec_of
from airflow_provider_openai_batches.inference.data.job import default_id, read_ids
from airflow_provider_openai_batches.inference.data.shards import Envelope, ShardWriter
from airflow_provider_openai_batches.storage import open_binary

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_openai_batches.inference.data.index import ResultIndex
    from airflow_provider_openai_batches.inference.data.job import Job, Shard


class _Body(msgspec.Struct):
    input: Any = None


class _Line(msgspec.Struct):
    body: _Body


def write_followup(index: ResultIndex, completed: Callable[[Shard], None] | None = None) -> Job:
    """
    Copy the request lines of all unfinished rows byte for byte into new shards, named in ``job.json``.

    The same results give the same files.

    :param index: with the results of all shards so far; afterwards it belongs to the job that is returned.
    :param completed: as in :func:`.write_shards`.
    :return: the job with the shards of the next round; the same job if there is nothing to ask again.
    :raises InvalidInputError: if the results of a shard were not added to the index.
    """
    index.check_complete()
    job, work = index.job, index.work
    if not index.unfinished:
        return job
    envelope = Envelope(job.endpoint)
    first, number = len(job.shards), job.round + 1
    with ShardWriter(work, envelope, job.limits, first, number, completed=completed) as writer:
        for shard in job.shards_of(0):
            _copy_unfinished(shard, index, writer)
    index.job = msgspec.structs.replace(job, shards=[*job.shards, *writer.shards])
    index.job.save(work)
    return index.job


def _copy_unfinished(shard: Shard, index: ResultIndex, writer: ShardWriter) -> None:
    wanted = [index.is_unfinished(row) for row, _ in read_ids(index.work, shard)]
    if not any(wanted):
        return
    count_inputs = spec_of(index.job.endpoint).count_inputs
    index.fetch(shard.file)
    with open_binary(index.work / shard.file) as lines:
        for is_wanted, (row, custom_id), line in zip(wanted, read_ids(index.work, shard), lines, strict=True):
            if is_wanted:
                inputs = count_inputs(msgspec.json.decode(line, type=_Line).body.input) if count_inputs else 0
                is_named = custom_id != default_id(row)
                writer.add(row, msgspec.json.encode(custom_id), line, shard.model, inputs, is_named)
    index.drop(shard.file)
