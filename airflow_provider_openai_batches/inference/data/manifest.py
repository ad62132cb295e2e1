"""The manifest of a directory of results. It is written last: if it exists, the job is complete."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_openai_batches.api.usage import Usage
from airflow_provider_openai_batches.inference.data.findings import Scan
from airflow_provider_openai_batches.pricing.cost import Cost

MANIFEST_FILE = "manifest.json"
UNREADABLE_FILE = "unreadable.txt"  # result lines that cannot be read, unchanged
VERSION = 1
# Where a row's result is from. The first two were asked, and paid for, by the job itself.
SOURCES = ("batch", "live", "store", "duplicate")
OWN = SOURCES[:2]


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One file.

    :param partition: the column that all its rows have one value in, and this value, which the file has not.
    """

    file: str
    rows: int
    bytes: int
    partition: dict[str, Any] | None = None


class ErrorGroup(msgspec.Struct):
    """All rows with one error code, and the first of them."""

    count: int
    message: str
    custom_id: str


class LiveUse(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was asked live rather than in a batch.

    :param rows: how many rows have an answer from there.
    :param usage: the tokens of all live answers; they are part of the job's usage.
    :param times_batch_price: how many times as much they cost as in a batch; None: a batch costs nothing.
        https://developers.openai.com/api/docs/guides/batch
    """

    rows: int = 0
    usage: Usage = msgspec.field(default_factory=Usage)
    times_batch_price: float | None = 2.0


class Merged(msgspec.Struct):
    """
    What was written.

    :param counts: the number of rows by status.
    :param usage: the tokens of all answers that were paid for, including those that are not used.
    :param errors: the errors by code.
    :param scan: what the downloaded files held.
    :param truncated: how many rows have an answer that was cut off, whatever their status.
    :param live: what was asked live; None if nothing was.
    :param cost: what the usage cost, by model, in batches and live.
    :param sources: the number of rows by source; None where the rows do not say it.
    """

    parts: list[Part] = []
    counts: dict[str, int] = {}
    usage: Usage = msgspec.field(default_factory=Usage)
    errors: dict[str, ErrorGroup] = {}
    scan: Scan = msgspec.field(default_factory=Scan)
    truncated: int = 0
    live: LiveUse | None = None
    cost: Cost = msgspec.field(default_factory=Cost)
    sources: dict[str, int] | None = None


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of the job; ``counts`` are the service's own."""

    shard: int
    round: int
    batch_id: str
    status: str
    counts: dict[str, int] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A complete job.

    :param digest: the digest of the results: of the requests, ids, kept columns and settings of the output.
    :param cost: what it cost; None in a manifest of release 0.1.
    :param answers_broken: how many segments of the store of answers were skipped; None: nobody looked there.
    :param made_by: dag_id, run_id, task_id, map_index and try_number of the task that wrote it.
    :param times: when the job ``started`` and ``finished``, in ISO 8601.
    """

    digest: str
    endpoint: str
    output_format: str
    rows: int
    parts: list[Part]
    counts: dict[str, int]
    usage: Usage
    batches: list[BatchRecord]
    errors: dict[str, ErrorGroup]
    scan: Scan
    truncated: int = 0
    live: LiveUse | None = None
    cost: Cost | None = None
    sources: dict[str, int] | None = None
    answers_broken: int | None = None
    made_by: dict[str, str] = {}
    times: dict[str, str] = {}
    version: int = VERSION
