"""The manifest of a directory of results. It is written last: where it is, the job is complete."""

from __future__ import annotations

import msgspec

from airflow_provider_openai_batches.inference.data.index import Scan
from airflow_provider_openai_batches.inference.data.results import Usage

MANIFEST_FILE = "manifest.json"
UNREADABLE_FILE = "unreadable.txt"  # result lines that are not JSON, as they came
VERSION = 1


class Part(msgspec.Struct, frozen=True):
    file: str
    rows: int
    bytes: int


class ErrorGroup(msgspec.Struct):
    """All rows with one error code, and the first of them."""

    count: int
    message: str
    custom_id: str


class Merged(msgspec.Struct):
    """
    What was written.

    :param counts: of the rows, by status.
    :param usage: the tokens of all answers that were paid for, including those that are not used.
    :param errors: by code.
    :param scan: what the downloaded files held.
    """

    parts: list[Part] = []
    counts: dict[str, int] = {}
    usage: Usage = msgspec.field(default_factory=Usage)
    errors: dict[str, ErrorGroup] = {}
    scan: Scan = msgspec.field(default_factory=Scan)


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

    :param digest: of the job, :attr:`Job.digest`.
    :param times: names and moments, in ISO 8601.
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
    times: dict[str, str] = {}
    version: int = VERSION
