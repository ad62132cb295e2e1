"""What a job gives to a store of answers: for each request that was answered, its digest and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_provider_openai_batches.answer_store.digests import digest_of
from airflow_provider_openai_batches.inference.data.followup import request_lines
from airflow_provider_openai_batches.inference.data.lines import body_of, read_line
from airflow_provider_openai_batches.inference.data.result_files import ResultFiles
from airflow_provider_openai_batches.inference.data.shards import Envelope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_openai_batches.inference.data.index import ResultIndex

_encode = msgspec.json.Encoder().encode


def reusable_answers(index: ResultIndex, wanted: bytearray) -> Iterator[tuple[bytes, str | None, bytes]]:
    """
    Yield digest, model and answer (one line of JSON) of some rows of a job.

    :param wanted: 1 for each row that is wanted; it has an answer.
    """
    envelope, endpoint = Envelope(index.job.endpoint), index.job.endpoint
    with ResultFiles(index) as files:
        for shard in index.job.shards_of(0):
            for row, custom_id, line in request_lines(shard, index, wanted):
                _, number, offset, length = index.location(row)
                found = read_line(files.read(number, offset, length))
                if found is not None and found.response is not None:
                    body = bytes(body_of(found.response))
                    asked = envelope.body(line, _encode(custom_id))
                    yield digest_of(endpoint, asked), shard.model, _in_one_line(body)
            files.drop_before(shard.first_row)


def _in_one_line(body: bytes) -> bytes:
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body
